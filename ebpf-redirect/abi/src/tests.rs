use super::*;

#[test]
fn layouts_have_no_padding() {
    assert_eq!(size_of::<OwnAddress>(), 8 + 16);
    assert_eq!(size_of::<Flow>(), 8 + 16 + 16 + 2 + 2 + 4);
    assert_eq!(size_of::<PodRecord>(), 4 * 8 + 128);
}

#[test]
fn every_kind_of_listener_has_two_slots_of_its_own() {
    let kinds = [Slot::Outbound, Slot::InboundPlaintext, Slot::Hbone, Slot::DnsUdp, Slot::DnsTcp];
    let mut seen = [false; Slot::COUNT as usize];
    for kind in kinds {
        for family in [Family::V4, Family::V6] {
            let slot = &mut seen[kind.index(family) as usize];
            assert!(!*slot, "{kind:?} {family:?} shares a slot");
            *slot = true;
        }
    }
    assert_eq!(seen, [true; Slot::COUNT as usize]);
}

#[test]
fn a_counters_index_is_its_place_in_the_list() {
    for (index, counter) in NodeCounter::ALL.iter().enumerate() {
        assert_eq!(*counter as usize, index);
    }
    for (index, counter) in PodCounter::ALL.iter().enumerate() {
        assert_eq!(*counter as usize, index);
    }
}
