//! Duties that one replica has at a time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease as Record;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout},
};
use weft_control::lease::{Held, Lease, Pace};
use weft_tests::{kube::Cluster, lab::LONG};

/// Fast, so that a lost holder is replaced within seconds.
const PACE: Pace = Pace {
    duration: Duration::from_secs(3),
    renew_within: Duration::from_secs(2),
    attempt_every: Duration::from_millis(200),
};

struct Replica {
    held: Held,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

fn replica(client: Client, duty: &str, name: &str, pace: Pace) -> Replica {
    let (lease, held) = Lease::new(client, "default", duty, name, pace);
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async {
        stopped.await.ok();
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(lease.run(stopped));
    Replica { held, stop, tasks }
}

async fn gained(replica: &mut Replica) -> Result<Instant> {
    timeout(LONG, replica.held.gained()).await.context("the duty is not gained")?;
    Ok(Instant::now())
}

/// One that nobody else has, also on a cluster that is not ours.
fn duty(of: &str) -> String {
    format!("weft-test-{of}-{}", std::process::id())
}

/// A cluster that is not ours is left as it was.
fn forget(cluster: &Cluster, duty: &str) -> Result<()> {
    cluster.kubectl(&["delete", "lease", "-n", "default", duty]).map(drop)
}

async fn holder(cluster: &Cluster, duty: &str) -> Result<Option<String>> {
    let record = Api::<Record>::namespaced(cluster.client()?, "default").get(duty).await?;
    Ok(record.spec.and_then(|spec| spec.holder_identity))
}

#[tokio::test]
async fn one_of_two_has_the_duty_and_a_killed_one_is_replaced_when_its_time_is_over() -> Result<()>
{
    let cluster = Cluster::start().await?;
    let duty = duty("killed");
    let mut one = replica(cluster.client()?, &duty, "one", PACE);
    gained(&mut one).await?;
    let mut two = replica(cluster.client()?, &duty, "two", PACE);
    let early = timeout(PACE.duration * 2, two.held.gained()).await;
    ensure!(early.is_err() && one.held.now(), "two have it, or the first has lost it");
    let killed = Instant::now();
    one.tasks.abort_all();
    let replaced = gained(&mut two).await?;
    // Its last renewal was before it was killed, but not long before.
    let waited = replaced - killed + PACE.renew_within;
    ensure!(waited >= PACE.duration, "{waited:?} after its last renewal");
    assert_eq!(holder(&cluster, &duty).await?.as_deref(), Some("two"));
    drop(two);
    forget(&cluster, &duty)
}

#[tokio::test]
async fn one_that_is_stopped_gives_the_duty_up_at_once() -> Result<()> {
    let cluster = Cluster::start().await?;
    let duty = duty("stopped");
    // Whoever had to wait for the end of its time would wait in vain.
    let pace = Pace { duration: LONG * 2, ..PACE };
    let mut one = replica(cluster.client()?, &duty, "one", pace);
    gained(&mut one).await?;
    let mut two = replica(cluster.client()?, &duty, "two", pace);
    one.stop.send(()).ok();
    one.tasks.join_next().await.context("it was started")??;
    ensure!(!one.held.now());
    gained(&mut two).await?;
    drop(two);
    forget(&cluster, &duty)
}

#[tokio::test]
async fn one_that_loses_the_api_server_stops_before_another_begins() -> Result<()> {
    let cluster = Cluster::own().await?;
    let (relay, kubeconfig) = cluster.relay()?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options);
    let duty = duty("lost");
    let mut one = replica(Client::try_from(config.await?)?, &duty, "one", PACE);
    gained(&mut one).await?;
    let mut two = replica(cluster.client()?, &duty, "two", PACE);
    relay.hold();
    let held = Instant::now();
    let lost = async {
        one.held.lost().await;
        Instant::now()
    };
    let (lost, taken) = tokio::join!(timeout(LONG, lost), gained(&mut two));
    let (lost, taken) = (lost.context("it never noticed")?, taken?);
    ensure!(lost < taken, "both had it for {:?}", lost - taken);
    ensure!(lost - held < PACE.duration, "noticed after {:?}", lost - held);
    relay.open();
    // It may not take it back while another has it.
    let back = timeout(PACE.duration * 2, one.held.gained()).await;
    ensure!(back.is_err() && two.held.now(), "it was taken back");
    Ok(())
}
