use weft_model::{Change, Field, Match, NetworkAddress, StringMatch};

use super::*;
use crate::{Authority, balance, fixture::*, random::Random};

fn deny_client() -> Change {
    let text = "cluster.local/ns/shop/sa/client".into();
    let principals = Field::any_of([StringMatch::Exact(text)]);
    let m = Match { principals, ..Match::default() };
    Change::Policy(policy("no-client", Action::Deny, vec![m]).into())
}

fn explain(view: &View, source: &str, dst: &str) -> Explanation {
    let source = view.pod(&"shop".parse().unwrap(), source).unwrap();
    why(view, source, OriginalDst(socket(dst)))
}

#[test]
fn a_denial_is_explained_at_every_endpoint_by_policy_and_rule() {
    let explanation = explain(&mesh([deny_client()]), "client", "10.1.0.1:80");
    let because = "denied by policy shop/no-client rule 0".to_owned();
    let policy: PolicyName = "shop/no-client".parse().unwrap();
    let refused = Answer::Refused { because, policy: Some(policy.clone()), http_status: 401 };
    assert_eq!(explanation.answer, refused);
    assert_eq!(explanation.service.unwrap().to_string(), "shop/web.shop.svc.cluster.local");
    assert_eq!(explanation.routes.len(), 2);
    for (route, ip) in explanation.routes.iter().zip(["10.0.0.2", "10.0.0.3"]) {
        assert_eq!(route.path, format!("HBONE, to {ip}:15008 for {ip}:8080"));
        assert_eq!(route.encryption, Encryption::MutualTls);
        assert_eq!(route.expects, [identity("web")]);
        let step = PolicyStep { policy: policy.clone(), effect: Effect::Deny, rule: Some(0) };
        assert_eq!(route.policies, [step]);
        assert_eq!(route.answer, refused);
    }
}

#[test]
fn an_endpoint_that_is_never_picked_is_shown_with_its_reason() {
    let mut sick = web("web-0", "10.0.0.2");
    sick.health = weft_model::Health::Unhealthy;
    let uid = sick.uid.clone();
    let explanation = explain(&mesh([workload(sick)]), "client", "10.1.0.1:80");
    assert_eq!(explanation.left_out, [Skipped { workload: uid, reason: LeftOut::Unhealthy }]);
    assert_eq!(explanation.routes.len(), 1);
    assert!(matches!(explanation.answer, Answer::Allowed { .. }));
}

#[test]
fn a_client_without_a_proxy_comes_in_the_clear_and_proves_nothing() {
    let mut legacy = pod("legacy", "10.0.0.7");
    legacy.tunnel = TunnelProtocol::None;
    let present = Field::none_of([StringMatch::Presence]);
    let m = Match { principals: present, ..Match::default() };
    let strict = Change::Policy(policy("strict", Action::Deny, vec![m]).into());
    let permissive = explain(&mesh([workload(legacy.clone())]), "legacy", "10.1.0.1:80");
    assert!(matches!(permissive.answer, Answer::Allowed { .. }));
    assert_eq!(permissive.source_identity, None);
    assert_eq!(permissive.routes[0].encryption, Encryption::None);
    let strict = explain(&mesh([workload(legacy), strict]), "legacy", "10.1.0.1:80");
    assert!(matches!(strict.answer, Answer::Refused { .. }), "{strict:?}");
}

#[test]
fn endpoints_that_disagree_are_counted() {
    let mut guarded = web("web-0", "10.0.0.2");
    let mut own = policy("own", Action::Deny, vec![]);
    own.rules = vec![weft_model::Rule::default()];
    own.scope = weft_model::Scope::Workload;
    guarded.policies = vec![own.name.clone()];
    let view = mesh([workload(guarded), Change::Policy(own.into())]);
    let explanation = explain(&view, "client", "10.1.0.1:80");
    assert_eq!(explanation.answer, Answer::Mixed { allowed: 1, refused: 1 });
}

#[test]
fn an_explanation_says_what_the_proxy_does_for_any_view() {
    let (mut allowed, mut refused) = (0, 0);
    for seed in 0..600 {
        let mut random = Random(seed);
        let view = random.view();
        let sources: Vec<_> =
            view.workloads().filter(|w| w.tunnel == TunnelProtocol::Hbone).cloned().collect();
        let Some(source) = sources.first() else { continue };
        let ip = if random.once_in(2) { random.vip() } else { random.ip() };
        let dst = OriginalDst(SocketAddr::new(ip, random.port()));
        let explanation = why(&view, source, dst);
        match proxied(&view, source, dst, Draw(seed)) {
            Ok(uid) => {
                allowed += 1;
                let route = explanation.routes.iter().find(|r| r.workload == uid);
                let answer = route.map(|r| &r.answer);
                assert!(
                    matches!(answer, Some(Answer::Allowed { .. })),
                    "seed {seed} {explanation:#?}"
                );
            }
            Err((uid, refusal)) => {
                refused += 1;
                let expected = Answer::from(&refusal);
                let routes =
                    explanation.routes.iter().filter(|r| uid.is_none() || r.workload == uid);
                let mut answers = routes.map(|r| &r.answer).chain([&explanation.answer]);
                assert!(answers.any(|a| *a == expected), "seed {seed} {refusal} {explanation:#?}");
            }
        }
    }
    assert!(allowed > 50 && refused > 50, "{allowed} allowed, {refused} refused");
}

/// The stairs of both nodes, one connection.
fn proxied(
    view: &View,
    source: &Workload,
    dst: OriginalDst,
    draw: Draw,
) -> Result<Option<WorkloadUid>, (Option<WorkloadUid>, Refusal)> {
    let nowhere = |refusal| (None, refusal);
    let resolved = resolve(view, Captured { source: pod_of(source), dst }).map_err(nowhere)?;
    let permit = authorize(view, &resolved).map_err(nowhere)?;
    let endpoint = balance(view, &permit, &Load::default(), &[], draw).map_err(nowhere)?;
    let uid = endpoint.uid().cloned();
    let Hop::Hbone { via: Reach::At(via), authority, .. } = next_hop(&permit, &endpoint) else {
        return Ok(uid);
    };
    let Endpoint::Workload { workload, .. } = &endpoint else { return Ok(uid) };
    if workload.native_tunnel {
        return Ok(uid);
    }
    let from = address_like(permit.local(), via.ip());
    let arrival = Tunnelled {
        target: pod_of(workload),
        peer: permit.local().identity(),
        from: PeerAddr(SocketAddr::new(from, 40000)),
        local: via,
        authority,
        forwarded_host: None,
    };
    let permit = resolve(view, arrival).and_then(|resolved| authorize(view, &resolved));
    permit.map(|_| uid.clone()).map_err(|refusal| (uid, refusal))
}

/// Whatever the view and whatever comes in, every stage answers, and what it answers is safe.
#[test]
fn no_view_and_no_arrival_makes_a_stage_panic_or_weaken() {
    for seed in 0..600 {
        let mut random = Random(seed);
        let view = random.view();
        let any = random.workload(0);
        let targets: Vec<_> = view.workloads().cloned().chain([any.into()]).collect();
        let target = random.pick(&targets);
        let ip = if random.once_in(2) { random.vip() } else { random.ip() };
        let dst = SocketAddr::new(ip, random.port());
        let from = PeerAddr(SocketAddr::new(random.ip(), 40000));
        let authority = match random.below(3) {
            0 => Authority::Address(dst),
            1 => Authority::Address(SocketAddr::new(address_like(&target, ip), 80)),
            _ => format!("svc{}.mesh.internal:80", random.below(7)).parse().unwrap(),
        };
        let arrivals = [
            Arrival::from(Captured { source: pod_of(&target), dst: OriginalDst(dst) }),
            Plain { target: pod_of(&target), from, dst: OriginalDst(dst) }.into(),
            Tunnelled {
                target: pod_of(&target),
                peer: target.identity(),
                from,
                local: PeerAddr(SocketAddr::new(address_like(&target, ip), HBONE_PORT)),
                authority,
                forwarded_host: None,
            }
            .into(),
        ];
        for arrival in arrivals {
            let Ok(permit) = permit(&view, arrival) else { continue };
            let tried: Vec<_> =
                view.workloads().take(random.below(3)).map(|w| w.uid.clone()).collect();
            let load = Load::default();
            let Ok(endpoint) = balance(&view, &permit, &load, &tried, Draw(seed)) else { continue };
            safe(&view, &permit, &endpoint);
        }
    }
}

fn safe(view: &View, permit: &Permit, endpoint: &Endpoint) {
    match next_hop(permit, endpoint) {
        Hop::Plaintext { to } => {
            // Never in the clear to an address that a workload of the mesh has.
            if let Reach::At(to) = to {
                let address = NetworkAddress::new(permit.local().network.clone(), to.ip());
                let owner = view.workload_at(&address);
                let mesh = owner.is_some_and(|w| w.tunnel == TunnelProtocol::Hbone);
                let chosen = endpoint.workload().is_some();
                assert!(!mesh || chosen, "{to} is reached in the clear");
            }
        }
        Hop::Hbone { expect, .. } => assert!(!expect.is_empty()),
        Hop::Nested { expect_gateway, expect, .. } => {
            assert!(!expect_gateway.is_empty() && !expect.is_empty());
        }
        Hop::Deliver { to, .. } => assert!(!crate::PROXY_PORTS.contains(&to.port())),
    }
}
