//! The applications: they know nothing of the mesh, and say whom they meant and who they are.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};

use super::net::{Backlog, MARKER, Pipe};

/// What a client wants that asks an address it remembers: whoever is there.
pub(super) const ANYBODY: &str = "anybody";
/// Longer than anything that is going to succeed takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// One broken promise, in words.
pub(super) type Violation = String;

/// Asks for a pod of `wanted`; the answer is the name of the pod that got the question.
pub(super) async fn exchange(stream: &mut Pipe, wanted: &str) -> Option<String> {
    timeout(PATIENCE, async {
        let question = [MARKER, b" ", wanted.as_bytes(), b"\n"].concat();
        stream.write_all(&question).await.ok()?;
        stream.flush().await.ok()?;
        line(stream).await
    })
    .await
    .ok()?
}

async fn line(stream: &mut Pipe) -> Option<String> {
    let mut text = Vec::new();
    loop {
        match stream.read_u8().await.ok()? {
            b'\n' => return String::from_utf8(text).ok(),
            byte => text.push(byte),
        }
    }
}

/// Answers each question with its own name, and notices one that was meant for somebody else.
pub(super) async fn application(
    name: String,
    account: &'static str,
    backlog: Rc<Backlog>,
    wrong: Rc<RefCell<Vec<Violation>>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let mut stream = backlog.pop().await.stream;
        let (name, wrong) = (name.clone(), wrong.clone());
        connections.spawn_local(async move {
            while let Some(question) = line(&mut stream).await {
                if !question.ends_with(account) && !question.ends_with(ANYBODY) {
                    let what = format!("{name} ({account}) got {question:?}");
                    wrong.borrow_mut().push(what);
                }
                let answer = format!("{name}\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}
