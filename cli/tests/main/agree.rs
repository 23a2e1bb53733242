//! `weft why` on a dump says what the proxy does on the View that the dump was made from.

use std::net::SocketAddr;

use weft_model::{OriginalDst, PeerAddr, TunnelProtocol, View, Workload, WorkloadUid, dump::Dump};
use ztunnel_core::{
    Answer, Captured, Draw, Endpoint, Explanation, Hop, Load, Pod, Reach, Refusal, Tunnelled,
    authorize, balance, next_hop, resolve,
};

use crate::random::Random;

const CASES: u64 = 10_000;
/// Writing and reading a dump takes longer than a question, so each view is asked several.
const QUESTIONS: u64 = 10;

#[test]
fn why_and_the_proxy_agree_on_ten_thousand_random_cases() {
    let (mut asked, mut allowed, mut refused) = (0, 0, 0);
    for seed in 0.. {
        if asked == CASES {
            break;
        }
        let mut random = Random(seed);
        let view = random.view();
        let text = serde_json::to_string(&Dump::of(&view)).unwrap();
        let read = weft_cli::read(&text, "the dump").unwrap();
        let again: View = read.into_changes().unwrap().into_iter().collect();
        let captured = |w: &&std::sync::Arc<Workload>| w.tunnel == TunnelProtocol::Hbone;
        let mut sources: Vec<_> = view.workloads().filter(captured).cloned().collect();
        sources.sort_by(|a, b| a.uid.cmp(&b.uid));
        if sources.is_empty() {
            continue;
        }
        for question in 0..QUESTIONS {
            asked += 1;
            let source = random.pick(&sources);
            let ip = if random.once_in(2) { random.vip() } else { random.ip() };
            let dst = SocketAddr::new(ip, random.port());
            let name = format!("{}/{}", source.namespace, source.name);
            let told = weft_cli::why::explain(&again, &name, &dst.to_string(), None).unwrap();
            // A name may be of two workloads: the proxy too takes the one that the name leads to.
            let source = view.pod(&source.namespace, &source.name).unwrap();
            if source.tunnel != TunnelProtocol::Hbone {
                continue;
            }
            let did =
                proxy(&view, source, OriginalDst::new(dst), Draw(seed * QUESTIONS + question));
            match &did {
                Ok(_) => allowed += 1,
                Err(_) => refused += 1,
            }
            agrees(&told, &did, seed);
        }
    }
    assert!(allowed > 1000 && refused > 1000, "{allowed} allowed, {refused} refused: too dull");
}

fn agrees(told: &Explanation, did: &Done, seed: u64) {
    match did {
        Ok(uid) => {
            let route = told.routes.iter().find(|r| r.workload == *uid);
            let allowed = route.is_some_and(|r| matches!(r.answer, Answer::Allowed { .. }));
            assert!(allowed, "seed {seed}: the proxy went to {uid:?}, but {told:#?}");
        }
        Err((uid, refusal)) => {
            let expected = Answer::from(refusal);
            // A pick that fails does not say which endpoint it was.
            let routes = told.routes.iter().filter(|r| uid.is_none() || r.workload == *uid);
            let mut answers = routes.map(|r| &r.answer).chain([&told.answer]);
            assert!(answers.any(|a| *a == expected), "seed {seed}: {refusal}, but {told:#?}");
        }
    }
}

type Done = Result<Option<WorkloadUid>, (Option<WorkloadUid>, Refusal)>;

/// What both nodes do with one connection.
fn proxy(view: &View, source: &Workload, dst: OriginalDst, draw: Draw) -> Done {
    let nowhere = |refusal| (None, refusal);
    let resolved = resolve(view, Captured { source: pod(source), dst }).map_err(nowhere)?;
    let permit = authorize(view, &resolved).map_err(nowhere)?;
    let endpoint = balance(view, &permit, &Load::default(), &[], draw).map_err(nowhere)?;
    let uid = endpoint.uid().cloned();
    let (Hop::Hbone { via: Reach::At(local), authority, .. }, Endpoint::Workload { workload, .. }) =
        (next_hop(&permit, &endpoint), &endpoint)
    else {
        return Ok(uid);
    };
    if workload.native_tunnel {
        return Ok(uid);
    }
    let same = source.addresses.iter().find(|ip| ip.is_ipv4() == local.ip().is_ipv4());
    let unknown = if local.ip().is_ipv4() { "0.0.0.0" } else { "::" };
    let from = same.copied().unwrap_or(unknown.parse().unwrap());
    let arrival = Tunnelled {
        target: pod(workload),
        peer: source.identity(),
        from: PeerAddr(SocketAddr::new(from, 40000)),
        local,
        authority,
        forwarded_host: None,
    };
    let permit = resolve(view, arrival).and_then(|resolved| authorize(view, &resolved));
    permit.map(|_| uid.clone()).map_err(|refusal| (uid, refusal))
}

fn pod(workload: &Workload) -> Pod {
    Pod {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        service_account: workload.service_account.clone(),
    }
}

#[test]
fn a_dump_in_yaml_is_read_back_as_it_was() {
    for seed in 0..200 {
        let dump = Dump::of(&Random(seed).view());
        let text = serde_saphyr::to_string(&dump).unwrap();
        assert_eq!(weft_cli::read(&text, "the dump").unwrap(), dump, "seed {seed}\n{text}");
    }
}
