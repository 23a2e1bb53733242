use std::fs::File;

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
