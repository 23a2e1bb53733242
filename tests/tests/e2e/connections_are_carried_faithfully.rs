//! Bytes, half-closes and resets arrive as they were sent, both ways, between programs that know no mesh.

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{LONG, Mesh, Pod, wait_for};

/// Reads to the end, then says how much it was and its hash, then closes.
const SUMMING_SERVER: &str = "
import hashlib, socket
listener = socket.create_server(('::', 9000), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    peer, _ = listener.accept()
    hash, length = hashlib.sha256(), 0
    while chunk := peer.recv(65536):
        hash.update(chunk)
        length += len(chunk)
    peer.sendall(f'{length} {hash.hexdigest()}'.encode() + b'.' * 4000000)
    peer.close()
";

/// Sends, half-closes, and only then reads.
const SUMMING_CLIENT: &str = "
import hashlib, random, socket, sys
data = random.Random(7).randbytes(8000000)
peer = socket.create_connection((sys.argv[1], 9000), timeout=30)
peer.sendall(data)
peer.shutdown(socket.SHUT_WR)
answer = b''
while chunk := peer.recv(65536):
    answer += chunk
said, dots = answer.rstrip(b'.').decode(), answer.count(b'.')
assert said == f'{len(data)} {hashlib.sha256(data).hexdigest()}', said
print(dots)
";

/// Resets a connection that says so, and says how the others ended.
const RESETTING_SERVER: &str = "
import socket, struct
listener = socket.create_server(('::', 9000), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    peer, _ = listener.accept()
    if peer.recv(5) == b'reset':
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        peer.close()
        continue
    peer.sendall(b'go on')
    try:
        print('ended by', 'close' if peer.recv(1) == b'' else 'a byte', flush=True)
    except ConnectionResetError:
        print('ended by reset', flush=True)
";

const RESET_BY_SERVER: &str = "
import socket, sys
peer = socket.create_connection((sys.argv[1], 9000), timeout=30)
peer.sendall(b'reset')
try:
    print('close' if peer.recv(1) == b'' else 'a byte')
except ConnectionResetError:
    print('reset')
";

const RESET_BY_CLIENT: &str = "
import socket, struct, sys
peer = socket.create_connection((sys.argv[1], 9000), timeout=30)
peer.sendall(b'hello')
assert peer.recv(5) == b'go on'
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
peer.close()
";

fn python(pod: &Pod, script: &str, address: &str) -> Result<String> {
    pod.says("python3", &["-c", script, address])
}

#[test]
fn bytes_and_half_closes_arrive_as_they_were_sent() -> Result<()> {
    let mesh = Mesh::new()?;
    let mut servers = Vec::new();
    for pod in mesh.web.iter().chain([&mesh.legacy]) {
        servers.push(pod.serve_with(9000, "python3", &["-c", SUMMING_SERVER])?);
    }
    for address in mesh.web.iter().chain([&mesh.legacy]).flat_map(|pod| [pod.v4(), pod.v6()]) {
        let dots =
            python(&mesh.client, SUMMING_CLIENT, address).with_context(|| address.to_owned())?;
        assert_eq!(dots, "4000000\n", "{address}");
    }
    for pod in &mesh.web {
        let dots = python(&mesh.legacy, SUMMING_CLIENT, pod.v4()).context("from outside")?;
        assert_eq!(dots, "4000000\n", "{}", pod.name());
    }
    mesh.is_sound()
}

#[test]
fn a_reset_arrives_as_a_reset_both_ways() -> Result<()> {
    let mesh = Mesh::new()?;
    for pod in &mesh.web {
        let server = pod.serve_with(9000, "python3", &["-c", RESETTING_SERVER])?;
        assert_eq!(python(&mesh.client, RESET_BY_SERVER, pod.v4())?, "reset\n", "{}", pod.name());
        python(&mesh.client, RESET_BY_CLIENT, pod.v4())?;
        let end = wait_for("the server sees an end", LONG, || {
            server.log().lines().find_map(|line| line.strip_prefix("ended by ").map(str::to_owned))
        })?;
        ensure!(end == "reset", "{}: the client's reset ended by {end}", pod.name());
    }
    mesh.is_sound()
}
