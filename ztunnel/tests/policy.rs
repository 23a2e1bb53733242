//! Who may call whom, as the destination's node enforces it.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_model::{
    Action, Authorization, Change, Clause, Field, Match, PolicyName, Rule, Scope, StringMatch,
};
use ztunnel_core::{Denial, Direction, End, Failure, Finish, Refusal};

use crate::fixture::{Mesh, WEB, at, run};

/// `intruder` is who may not; everyone else may.
pub(crate) fn deny(intruder: &str) -> Change {
    let principal = format!("cluster.local/ns/shop/sa/{intruder}");
    let principals = Field::any_of([StringMatch::Exact(principal.as_str().into())]);
    let clause = Clause { matches: vec![Match { principals, ..Match::default() }] };
    Change::Policy(Arc::new(Authorization {
        name: PolicyName::new("shop", "no-intruders").unwrap(),
        scope: Scope::Namespace,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![clause] }],
        dry_run: false,
    }))
}

fn is_denied_by_name(refusal: &Refusal) -> bool {
    let named = PolicyName::new("shop", "no-intruders").unwrap();
    matches!(refusal, Refusal::Denied(Denial::Matched { policy, .. }) if *policy == named)
}

#[test]
fn a_policy_refuses_by_identity_and_the_caller_is_told_401() {
    run(async {
        let (mesh, client, _web) = Mesh::pair();
        mesh.change(deny("client"));
        let mut asking = TcpStream::connect(client.captured).await.unwrap();
        let error = asking.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let outcomes = mesh.outcomes(2).await;
        let refused = Failure::TunnelRefused { to: at(WEB, 15008), status: 401 };
        for outcome in outcomes {
            match (outcome.parties.direction, &outcome.end) {
                (Direction::Outbound, End::Failed(failure)) => assert_eq!(*failure, refused),
                (Direction::Inbound, End::Refused(refusal)) => assert!(is_denied_by_name(refusal)),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_policy_change_cuts_a_live_connection() {
    run(async {
        let (mesh, client, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let mut asking = TcpStream::connect(client.captured).await.unwrap();
        let (mut asked, _) = app.accept().await.unwrap();
        asked.write_all(b"!").await.unwrap();
        asking.read_exact(&mut [0; 1]).await.unwrap();

        mesh.change(deny("client"));
        let reset = std::io::ErrorKind::ConnectionReset;
        assert_eq!(asking.read(&mut [0; 1]).await.unwrap_err().kind(), reset);
        assert_eq!(asked.read(&mut [0; 1]).await.unwrap_err().kind(), reset);
        let outcomes = mesh.outcomes(2).await;
        let revoked = outcomes.iter().any(|o| match &o.end {
            End::Carried(carried) => {
                matches!(&carried.finish, Finish::Revoked(refusal) if is_denied_by_name(refusal))
            }
            End::Refused(_) | End::Failed(_) => false,
        });
        assert!(revoked, "{outcomes:?}");
    });
}

#[test]
fn a_policy_on_identities_refuses_a_caller_in_the_clear() {
    run(async {
        let (mesh, _client, web) = Mesh::pair();
        let app = mesh.serve_web().await;
        // Without a policy, bytes in the clear are taken: PERMISSIVE.
        let mut stranger = TcpStream::connect(web.plaintext).await.unwrap();
        let (mut asked, _) = app.accept().await.unwrap();
        asked.write_all(b"!").await.unwrap();
        stranger.read_exact(&mut [0; 1]).await.unwrap();

        // What PeerAuthentication STRICT is compiled to.
        let principals = Field::none_of([StringMatch::Presence]);
        let clause = Clause { matches: vec![Match { principals, ..Match::default() }] };
        mesh.change(Change::Policy(Arc::new(Authorization {
            name: PolicyName::new("shop", "strict").unwrap(),
            scope: Scope::Namespace,
            action: Action::Deny,
            rules: vec![Rule { clauses: vec![clause] }],
            dry_run: false,
        })));
        let reset = std::io::ErrorKind::ConnectionReset;
        assert_eq!(stranger.read(&mut [0; 1]).await.unwrap_err().kind(), reset);
        let mut again = TcpStream::connect(web.plaintext).await.unwrap();
        assert_eq!(again.read(&mut [0; 1]).await.unwrap_err().kind(), reset);
    });
}
