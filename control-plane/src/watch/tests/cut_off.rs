//! Questions that end before their answer is taken, and servers that would be left alone.

use super::{
    gather::{News, Told},
    tracker::Step,
    *,
};

const DEFINITIONS: &str = "customresourcedefinitions";

#[tokio::test(start_paused = true)]
async fn a_deletion_that_nobody_took_yet_is_told_when_the_kind_goes() {
    let server = Server::default();
    server.put(DEFINITIONS, definition(POLICY_DEFINITION));
    server.put(POLICIES, policy(&json!({})));
    let resource = RESOURCES.iter().find(|resource| resource.plural == POLICIES).unwrap();
    let (tell, mut told) = mpsc::channel(1);
    let defined = [resource.definition().unwrap()].into();
    let (define, defined) = watch::channel(Some(Arc::new(defined)));
    let watch = Watch::new(resource, server.client(), tell.clone(), defined, Arc::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(watch.run());
    let first = time::timeout(Duration::from_mins(1), told.recv()).await.unwrap().unwrap().news;
    assert!(matches!(&first, News::Whole(steps) if matches!(steps[..], [Step::Put(_)])));

    // Whoever takes what is told is busy, when the object goes and then its kind.
    tell.try_send(Told { resource, news: News::Well }).unwrap();
    server.delete(POLICIES, "shop/deny");
    time::sleep(Duration::from_secs(1)).await;
    define.send_replace(Some(Arc::default()));
    time::sleep(Duration::from_secs(1)).await;
    let mut deleted = Vec::new();
    loop {
        match time::timeout(Duration::from_mins(1), told.recv()).await.unwrap().unwrap().news {
            News::Well => {}
            News::Changed(steps) => deleted.extend(steps),
            News::Whole(steps) => {
                deleted.extend(steps);
                break;
            }
            News::Trouble(why) => panic!("{why}"),
        }
    }
    assert!(matches!(deleted[..], [Step::Delete(_)]), "{deleted:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_wrong_with_a_kind_is_over_when_the_kind_is() {
    let server = Server::default();
    server.put(DEFINITIONS, definition(POLICY_DEFINITION));
    server.mood(POLICIES, Mood::Forbidden);
    let scene = Scene::new(server);
    scene.until("it is told", |scene| !scene.problems().is_empty()).await;
    scene.server.delete(DEFINITIONS, &format!("/{POLICY_DEFINITION}"));
    scene.until("it is over", |scene| scene.problems().is_empty()).await;
    scene.until_complete().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_would_be_left_alone_for_a_day_is_asked_again_within_a_minute() {
    let server = Server::default();
    server.put("pods", pod("p1"));
    server.mood("pods", Mood::Busy);
    let scene = Scene::new(server);
    scene.until("it is told", |scene| !scene.problems().is_empty()).await;
    scene.server.mood("pods", None);
    let since = clock::instant();
    scene.until_complete().await;
    let took = clock::instant() - since;
    assert!(took <= Duration::from_mins(1), "{took:?}");
}
