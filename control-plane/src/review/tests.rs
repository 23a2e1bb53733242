//! An API server in memory that answers reviews; what a real one says is tested in `tests/`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinSet};

use super::*;

const NODE: &str = "system:serviceaccount:weft-system:weft-ztunnel";

fn accounts() -> NodeAccounts {
    NodeAccounts {
        namespace: "weft-system".to_owned(),
        names: vec!["weft-ztunnel".to_owned()],
        audience: "weft-ca".to_owned(),
    }
}

fn jwt(text: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", encode(r#"{"alg":"RS256"}"#), encode(r#"{"exp":5000}"#), encode(text))
}

/// What a good token is answered with, as a current API server does it.
fn good() -> TokenReviewStatus {
    let extra = [
        ("authentication.kubernetes.io/credential-id", "JTI=1"),
        (NODE_NAME, "worker-1"),
        (NODE_UID, "n-1"),
        (POD_NAME, "weft-ztunnel-x"),
        (POD_UID, "p-1"),
    ];
    let extra = extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
    TokenReviewStatus {
        audiences: Some(vec!["weft-ca".to_owned()]),
        authenticated: Some(true),
        error: None,
        user: Some(UserInfo {
            username: Some(NODE.to_owned()),
            extra: Some(BTreeMap::from(extra)),
            ..UserInfo::default()
        }),
    }
}

fn worker() -> Caller {
    let expires = UNIX_EPOCH + Duration::from_secs(5000);
    Caller { node: "worker-1".into(), uid: Some("n-1".into()), expires }
}

/// Counts what it is asked, and answers when it may.
#[derive(Default)]
struct Server {
    asked: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    changed: Notify,
    hold: Option<Arc<Semaphore>>,
    broken: std::sync::atomic::AtomicBool,
}

impl Server {
    fn reviewer(self: &Arc<Self>) -> Reviewer {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let answer = server.answer(serde_json::from_slice(&body)?).await;
                let status = if answer.is_some() { 201 } else { 500 };
                let body = answer.unwrap_or_else(|| json!({"kind": "Status", "code": 500}));
                let body = Full::new(Bytes::from(body.to_string()));
                let response = http::Response::builder().status(status).body(body)?;
                Ok::<_, tower::BoxError>(response)
            }
        });
        Reviewer::new(Client::new(service, "default"), accounts())
    }

    async fn answer(&self, mut review: Value) -> Option<Value> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.at_once_max.fetch_max(at_once, Ordering::SeqCst);
        self.changed.notify_one();
        if let Some(hold) = &self.hold {
            hold.acquire().await.unwrap().forget();
        }
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return None;
        }
        assert_eq!(review["spec"]["audiences"], json!(["weft-ca"]));
        let good_token = review["spec"]["token"] == jwt("good");
        let bad = TokenReviewStatus { error: Some("no".to_owned()), ..Default::default() };
        let status = if good_token { good() } else { bad };
        review["status"] = serde_json::to_value(status).unwrap();
        Some(review)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn refused(
    change: impl FnOnce(&mut TokenReviewStatus, &mut BTreeMap<String, Vec<String>>),
) -> String {
    let mut status = good();
    let mut extra = status.user.as_mut().unwrap().extra.take().unwrap();
    change(&mut status, &mut extra);
    if let Some(user) = &mut status.user {
        user.extra = Some(extra);
    }
    judge(&status, &accounts(), UNIX_EPOCH).unwrap_err().to_string()
}

fn named(status: &mut TokenReviewStatus, name: &str) {
    status.user.as_mut().unwrap().username = Some(name.to_owned());
}

#[test]
fn only_a_bound_token_of_a_nodes_account_made_for_us_names_a_node() {
    assert_eq!(judge(&good(), &accounts(), worker().expires), Ok(worker()));
    let wrong_audience = "the API server does not accept the token for `weft-ca`: bad audience";
    assert_eq!(
        refused(|status, _| {
            status.authenticated = None;
            status.error = Some("bad audience".to_owned());
        }),
        wrong_audience
    );
    let blind = "the token is for ``, not for `weft-ca`";
    assert_eq!(refused(|status, _| status.audiences = None), blind);
    assert_eq!(
        refused(|status, _| status.audiences = Some(vec!["vault".to_owned()])),
        "the token is for `vault`, not for `weft-ca`"
    );
    for name in [
        "system:serviceaccount:shop:weft-ztunnel",
        "system:serviceaccount:weft-system:default",
        "system:serviceaccount:weft-system:weft-ztunnel:x",
        "system:node:worker-1",
        "kubernetes-admin",
        "",
    ] {
        let expected = format!("the token is of `{name}`, which is no node's service account");
        assert_eq!(refused(|status, _| named(status, name)), expected);
    }
    for key in [POD_NAME, POD_UID, NODE_NAME, NODE_UID] {
        let expected =
            format!("the token of `{NODE}` is not bound to a pod on a node: it has no {key}");
        assert_eq!(refused(|_, extra| drop(extra.remove(key))), expected);
        assert_eq!(refused(|_, extra| extra.get_mut(key).unwrap().push("b".to_owned())), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_asked_about_once_in_five_seconds_be_it_good_or_bad() {
    let server = Arc::new(Server::default());
    let reviewer = server.reviewer();
    for _ in 0..10 {
        assert_eq!(reviewer.review(&jwt("good")).await, Ok(worker()));
        let error = reviewer.review(&jwt("bad")).await.unwrap_err();
        assert!(matches!(error, ReviewError::Refused(Refused::NotAuthenticated { .. })), "{error}");
    }
    assert_eq!(server.asked(), 2);
    time::advance(Duration::from_secs(5)).await;
    reviewer.review(&jwt("bad")).await.unwrap_err();
    reviewer.review(&jwt("good")).await.unwrap();
    assert_eq!(server.asked(), 4);
}

#[tokio::test]
async fn what_is_no_jwt_is_never_asked_about() {
    let server = Arc::new(Server::default());
    let reviewer = server.reviewer();
    let long = jwt(&"x".repeat(TOKEN_BYTES_MAX));
    for token in ["", "a", "a.b.c", "e30.e30.", "e30.e30.YQ", "e30.e30.YQ.YQ", &long] {
        let refused = reviewer.review(token).await;
        assert_eq!(refused, Err(ReviewError::Refused(Refused::Shape)), "{token}");
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn at_most_eight_reviews_are_under_way_and_none_longer_than_five_seconds() {
    let hold = Arc::new(Semaphore::new(0));
    let server = Arc::new(Server { hold: Some(hold.clone()), ..Server::default() });
    let reviewer = Arc::new(server.reviewer());
    let mut callers = JoinSet::new();
    for n in 0..30 {
        let reviewer = reviewer.clone();
        callers.spawn(async move { reviewer.review(&jwt(&n.to_string())).await });
    }
    while server.asked() < REVIEWS_MAX {
        server.changed.notified().await;
    }
    // Time passes only when nobody can go on: those that wait for a place wait in vain.
    while let Some(late) = callers.join_next().await {
        assert_eq!(late.unwrap(), Err(ReviewError::Late));
    }
    assert_eq!(server.at_once_max.load(Ordering::SeqCst), REVIEWS_MAX);
    hold.add_permits(1000);
    assert_eq!(reviewer.review(&jwt("good")).await, Ok(worker()));
}

#[tokio::test]
async fn an_api_server_in_trouble_refuses_nobody_for_longer_than_it_lasts() {
    let server = Arc::new(Server::default());
    let reviewer = server.reviewer();
    server.broken.store(true, Ordering::SeqCst);
    let error = reviewer.review(&jwt("good")).await.unwrap_err();
    assert!(matches!(error, ReviewError::Unavailable { .. }), "{error}");
    server.broken.store(false, Ordering::SeqCst);
    assert_eq!(reviewer.review(&jwt("good")).await, Ok(worker()));
}
