//! Bytes between two pods of two nodes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use ztunnel_core::{Carried, Direction, End, Finish, Security};

use crate::fixture::{Mesh, identity, run};

#[test]
fn bytes_are_carried_both_ways_over_mutual_tls() {
    run(async {
        let (mesh, client, _web) = Mesh::pair();
        let app = mesh.serve_web().await;
        let mut asking = TcpStream::connect(client.captured).await.unwrap();
        asking.write_all(b"question").await.unwrap();
        let (mut asked, _) = app.accept().await.unwrap();
        let mut question = [0; 8];
        asked.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"question");
        asked.write_all(b"the answer").await.unwrap();
        drop(asked);
        let mut answer = Vec::new();
        asking.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"the answer");
        drop(asking);

        let outcomes = mesh.outcomes(2).await;
        for outcome in &outcomes {
            let finish = Finish::Closed;
            let carried = Carried { bytes_to_server: 8, bytes_to_client: 10, finish };
            assert_eq!(outcome.end, End::Carried(carried), "{outcome:?}");
            assert_eq!(outcome.parties.security, Security::MutualTls);
            assert_eq!(outcome.parties.source.identity, Some(identity("client")));
            assert_eq!(outcome.parties.destination.identity, Some(identity("web")));
        }
        let directions: Vec<_> = outcomes.iter().map(|o| o.parties.direction).collect();
        assert!(
            directions.contains(&Direction::Outbound) && directions.contains(&Direction::Inbound)
        );
    });
}
