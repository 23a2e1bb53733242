use std::net::IpAddr;

use weft_model::{Identity, Namespace};

use super::*;
use crate::{fixture::*, random::Random, trace::Quiet};

fn principal(account: &str) -> Match {
    let text = format!("cluster.local/ns/shop/sa/{account}");
    Match {
        principals: Field::any_of([StringMatch::Exact(text.as_str().into())]),
        ..Match::default()
    }
}

fn unauthenticated() -> Match {
    Match { principals: Field::none_of([StringMatch::Presence]), ..Match::default() }
}

fn from_client(peer: &Peer) -> Request<'_> {
    Request { peer, source: "10.0.0.1".parse().unwrap(), destination: socket("10.0.0.2:80") }
}

fn verdict(policies: &[Authorization], peer: &Peer) -> Result<Ground, Denial> {
    judged(policies, peer).verdict
}

fn judged(policies: &[Authorization], peer: &Peer) -> Judgement {
    let policies: Vec<_> = policies.iter().cloned().map(Arc::new).collect();
    judge(policies.iter().map(Ok), from_client(peer), &mut Quiet)
}

fn client() -> Peer {
    Peer::Proven(identity("client"))
}

fn name(name: &str) -> PolicyName {
    PolicyName::new("shop", name).unwrap()
}

#[test]
fn deny_comes_before_allow_and_allow_must_match_where_there_is_one() {
    use Action::{Allow, Deny};
    let allow = |m| policy("allow", Allow, vec![m]);
    let deny = |m| policy("deny", Deny, vec![m]);
    let matched = |n: &str| Ok(Ground::Matched { policy: name(n), rule: 0 });
    let denied = |n: &str| Err(Denial::Matched { policy: name(n), rule: 0 });
    let nothing = || Err(Denial::NothingAllows { policies: vec![name("allow")] });
    let table = [
        (vec![], Ok(Ground::Open)),
        (vec![allow(principal("client"))], matched("allow")),
        (vec![allow(principal("other"))], nothing()),
        (vec![policy("allow", Allow, vec![])], nothing()),
        (vec![deny(principal("client"))], denied("deny")),
        (vec![deny(principal("other"))], Ok(Ground::Open)),
        (vec![policy("deny", Deny, vec![])], Ok(Ground::Open)),
        (vec![allow(principal("client")), deny(principal("client"))], denied("deny")),
        (vec![allow(principal("client")), deny(principal("other"))], matched("allow")),
        (
            vec![allow(principal("other")), policy("b", Allow, vec![principal("client")])],
            matched("b"),
        ),
    ];
    for (policies, expected) in table {
        assert_eq!(verdict(&policies, &client()), expected, "{policies:?}");
    }
}

#[test]
fn the_rule_that_matched_is_named() {
    let two = policy("deny", Action::Deny, vec![principal("other"), principal("client")]);
    let expected = Err(Denial::Matched { policy: name("deny"), rule: 1 });
    assert_eq!(verdict(&[two], &client()), expected);
}

#[test]
fn a_match_that_says_nothing_matches_nothing_and_a_rule_without_clauses_everything() {
    let empty = policy("deny", Action::Deny, vec![Match::default()]);
    assert_eq!(verdict(&[empty], &client()), Ok(Ground::Open));
    let mut all = policy("deny", Action::Deny, vec![]);
    all.rules = vec![Rule::default()];
    assert!(verdict(&[all.clone()], &client()).is_err());
    all.rules = vec![Rule { clauses: vec![Clause::default()] }];
    assert!(verdict(&[all], &client()).is_err());
}

#[test]
fn strict_refuses_who_proved_nothing_and_nobody_else() {
    let strict = [policy("strict", Action::Deny, vec![unauthenticated()])];
    assert_eq!(verdict(&strict, &client()), Ok(Ground::Open));
    let denied = Err(Denial::Matched { policy: name("strict"), rule: 0 });
    assert_eq!(verdict(&strict, &Peer::Unauthenticated), denied);
}

#[test]
fn who_proved_nothing_satisfies_no_service_account_and_no_presence() {
    let account = ServiceAccountMatch {
        namespace: Namespace::new("shop").unwrap(),
        service_account: "client".parse().unwrap(),
    };
    let by_account = Match { service_accounts: Field::any_of([account]), ..Match::default() };
    let present = Match { principals: Field::any_of([StringMatch::Presence]), ..Match::default() };
    for m in [by_account, present] {
        let allow = [policy("allow", Action::Allow, vec![m])];
        assert!(verdict(&allow, &client()).is_ok());
        assert!(verdict(&allow, &Peer::Unauthenticated).is_err());
    }
}

#[test]
fn a_policy_that_is_not_known_denies_even_where_another_allows() {
    let allow = Arc::new(policy("allow", Action::Allow, vec![principal("client")]));
    let missing = name("missing");
    let peer = client();
    let both = [Ok(&allow), Err(&missing)];
    let judgement = judge(both.into_iter(), from_client(&peer), &mut Quiet);
    assert_eq!(judgement.verdict, Err(Denial::UnknownPolicy { policy: missing }));
}

#[test]
fn a_dry_run_policy_is_told_and_not_enforced() {
    let mut deny = policy("deny", Action::Deny, vec![principal("client")]);
    deny.dry_run = true;
    let judgement = judged(&[deny], &client());
    assert_eq!(judgement.verdict, Ok(Ground::Open));
    assert_eq!(judgement.dry_run, Some(Denial::Matched { policy: name("deny"), rule: 0 }));

    let mut allow = policy("allow", Action::Allow, vec![principal("other")]);
    allow.dry_run = true;
    let judgement = judged(&[allow], &client());
    assert_eq!(judgement.verdict, Ok(Ground::Open));
    assert_eq!(judgement.dry_run, Some(Denial::NothingAllows { policies: vec![name("allow")] }));
}

/// Written from the text of the wire contract 7.1, in another shape: it collects what matches.
mod naive {
    use super::*;

    pub(super) fn permits(policies: &[Result<Authorization, PolicyName>], r: Request<'_>) -> bool {
        let enforced = |action: Action| {
            let known = policies.iter().filter_map(|p| p.as_ref().ok());
            known.filter(|p| !p.dry_run && p.action == action).collect::<Vec<_>>()
        };
        if policies.iter().any(Result::is_err) {
            return false;
        }
        for deny in enforced(Action::Deny) {
            if applies(deny, r) {
                return false;
            }
        }
        let allows = enforced(Action::Allow);
        if allows.is_empty() {
            return true;
        }
        for allow in allows {
            if applies(allow, r) {
                return true;
            }
        }
        false
    }

    fn applies(policy: &Authorization, r: Request<'_>) -> bool {
        for rule in &policy.rules {
            let mut every = true;
            for clause in &rule.clauses {
                let mut some = clause.matches.is_empty();
                for m in &clause.matches {
                    some = some || one(m, r);
                }
                every = every && some;
            }
            if every {
                return true;
            }
        }
        false
    }

    fn one(m: &Match, r: Request<'_>) -> bool {
        let (principal, namespace, account) = match r.peer {
            Peer::Proven(id) => (
                id.to_string().replacen("spiffe://", "", 1),
                id.namespace().to_string(),
                Some((id.namespace().to_string(), id.service_account().to_string())),
            ),
            Peer::Unauthenticated => (String::new(), String::new(), None),
        };
        // Each attribute that says something: (a positive list, was one of it met, was one refused).
        let mut said = Vec::new();
        said.push(field(&m.namespaces, |s| text(s, &namespace)));
        said.push(field(&m.principals, |s| text(s, &principal)));
        said.push(field(&m.service_accounts, |s| {
            account == Some((s.namespace.to_string(), s.service_account.to_string()))
        }));
        said.push(field(&m.source_ips, |n| within(n, r.source)));
        said.push(field(&m.destination_ips, |n| within(n, r.destination.ip())));
        said.push(field(&m.destination_ports, |p| *p == r.destination.port()));
        let said: Vec<bool> = said.into_iter().flatten().collect();
        !said.is_empty() && !said.contains(&false)
    }

    /// `None` when the field says nothing.
    fn field<T>(field: &Field<T>, is: impl Fn(&T) -> bool) -> Option<bool> {
        if field.any_of.is_empty() && field.none_of.is_empty() {
            return None;
        }
        if field.none_of.iter().filter(|v| is(v)).count() > 0 {
            return Some(false);
        }
        Some(field.any_of.is_empty() || field.any_of.iter().filter(|v| is(v)).count() > 0)
    }

    fn text(m: &StringMatch, value: &str) -> bool {
        match m {
            StringMatch::Exact(s) => **s == *value,
            StringMatch::Prefix(s) => value.len() >= s.len() && value[..s.len()] == **s,
            StringMatch::Suffix(s) => {
                value.len() >= s.len() && value[value.len() - s.len()..] == **s
            }
            StringMatch::Presence => !value.is_empty(),
        }
    }

    fn within(range: &ipnet::IpNet, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => (4, u128::from(u32::from(v4)) << 96),
            IpAddr::V6(v6) => (6, u128::from(v6)),
        };
        let ((family, network), (other, address)) = (bits(range.network()), bits(ip));
        let length = u32::from(range.prefix_len());
        let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
        family == other && network & mask == address & mask
    }
}

#[test]
fn the_evaluator_agrees_with_an_interpreter_written_from_the_text() {
    let (mut permitted, mut refused) = (0, 0);
    for seed in 0..1500 {
        let mut random = Random(seed);
        let unknown = random.once_in(40);
        let mut policies: Vec<Result<Authorization, PolicyName>> =
            (0..random.below(5)).map(|i| Ok(random.policy(i))).collect();
        if unknown {
            policies.push(Err(name("unknown")));
        }
        let shared: Vec<_> = policies.iter().map(|p| p.clone().map(Arc::new)).collect();
        for _ in 0..4 {
            let peer = if random.once_in(3) {
                Peer::Unauthenticated
            } else {
                let domain = weft_model::TrustDomain::default();
                Peer::Proven(Identity::new(domain, random.namespace(), random.account()))
            };
            let destination = SocketAddr::new(random.ip(), random.port());
            let request = Request { peer: &peer, source: random.ip(), destination };
            let judgement = judge(shared.iter().map(Result::as_ref), request, &mut Quiet);
            let expected = naive::permits(&policies, request);
            assert_eq!(
                judgement.verdict.is_ok(),
                expected,
                "seed {seed} {request:?} {policies:#?}"
            );
            if expected { permitted += 1 } else { refused += 1 }
        }
    }
    // Else the worlds are too dull to tell two evaluators apart.
    assert!(permitted > 500 && refused > 500, "{permitted} permitted, {refused} refused");
}
