use weft_model::{AppProtocol, Health, ServicePort};

use super::*;
use crate::fixture::{mesh, pod, service, socket, web, web_service, workload};

fn of(view: &View, port: u16) -> Result<Vec<(&str, Option<LeftOut>)>, Refusal> {
    let client = view.workloads().find(|it| &*it.name == "client").unwrap();
    let web = view.service(&web_service().key()).unwrap();
    let dst = OriginalDst::new(socket(&format!("10.1.0.1:{port}")));
    let all = choices(view, client, web, dst)?;
    Ok(all.into_iter().map(|it| (&*it.workload.name, it.left_out)).collect())
}

#[test]
fn all_endpoints_are_told_with_the_reason_of_those_that_are_left_out() {
    let mut second = web("web-1", "10.0.0.3");
    second.health = Health::Unhealthy;
    let view = mesh([workload(second.clone()), workload(pod("other", "10.0.0.9"))]);
    let unhealthy = Some(LeftOut::Unhealthy);
    assert_eq!(of(&view, 80), Ok(vec![("web-0", None), ("web-1", unhealthy)]));
    let mut first = web("web-0", "10.0.0.2");
    first.capacity = 0;
    let view = mesh([workload(first), workload(second)]);
    assert_eq!(of(&view, 80), Ok(vec![("web-0", Some(LeftOut::NoCapacity)), ("web-1", unhealthy)]));
}

#[test]
fn a_port_that_the_service_has_not_is_refused_and_one_that_passes_through_leaves_nobody_out() {
    let view = mesh([]);
    assert!(matches!(of(&view, 81), Err(Refusal::NoPort { port: 81, .. })));
    let mut through = web_service();
    through.load_balancing.mode = Mode::Passthrough;
    let unserved = ServicePort {
        name: None,
        service_port: 81,
        target_port: 0,
        app_protocol: AppProtocol::Tcp,
    };
    through.ports.push(unserved);
    assert_eq!(of(&mesh([service(through)]), 81), Ok(vec![("web-0", None), ("web-1", None)]));
}
