use tokio::task::JoinSet;
use weft_xds::codec::ResourceType;

use super::*;
use crate::{
    compile::tests::{mesh, objects},
    objects::Difference,
};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
status: {podIP: 10.0.0.1}
";

#[tokio::test(start_paused = true)]
async fn what_is_served_is_compared_with_everything_compiled_anew_and_mended() {
    let (known, metrics) = (Known::new(mesh()), Arc::new(Metrics::default()));
    known.apply(&Difference { apply: objects(POD), delete: vec![] });
    known.publish(|_| Vec::new());
    let served = || {
        let resources = known.resources().borrow().clone();
        let web = resources.get(ResourceType::Address, "Kubernetes//Pod/shop/web");
        web.map(|resource| resource.version.clone())
    };
    let before = served();
    let mut tasks = JoinSet::new();
    tasks.spawn(keep(known.clone(), metrics.clone(), Duration::from_mins(10)));

    let says = |checks: u32, repaired: u32| {
        let text = metrics.text(0, 0);
        text.contains(&format!("weft_control_self_checks_total {checks}\n"))
            && text.contains(&format!("weft_control_self_check_repaired_total {repaired}\n"))
    };
    time::sleep(Duration::from_mins(11)).await;
    assert!(says(1, 0), "{}", metrics.text(0, 0));

    // As an arrow that is missing in index/dirty.rs would leave it.
    known.index().put_unmarked(&objects(&POD.replace("10.0.0.1", "10.0.0.9"))[0]);
    known.publish(|_| Vec::new());
    assert_eq!(served(), before);
    time::sleep(Duration::from_mins(10)).await;
    assert!(says(2, 1), "{}", metrics.text(0, 0));
    assert_ne!(served(), before);
}
