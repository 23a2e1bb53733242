use std::{fs::File, net::SocketAddr};

use super::{Netns, Transparency};
use crate::{config::Tcp, descriptors::Descriptors};

#[test]
fn where_only_reserved_descriptors_are_left_none_is_made() {
    let pod = File::open("/proc/thread-self/ns/net").unwrap();
    let none = Descriptors::of(Some(0));
    none.taken(&pod);
    let netns = Netns::new(pod.into(), Tcp::default(), none).unwrap();
    let made = netns.socket("127.0.0.1:1".parse().unwrap(), Transparency::None);
    assert_eq!(made.unwrap_err().raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
}

#[test]
fn a_clients_address_takes_no_port_before_the_destination_is_known() {
    let pod = File::open("/proc/thread-self/ns/net").unwrap();
    let netns = Netns::new(pod.into(), Tcp::default(), Descriptors::of(Some(100))).unwrap();
    for (client, to) in [("10.9.8.7:0", "127.0.0.1:1"), ("[fd00::9]:0", "[::1]:1")] {
        let (client, to) = (client.parse::<SocketAddr>().unwrap(), to.parse().unwrap());
        let socket = netns.socket(to, Transparency::Transparent).unwrap();
        socket.bind(&client.into()).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(client));
    }
}
