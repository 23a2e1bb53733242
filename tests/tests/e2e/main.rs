//! The mesh between network namespaces, with the real binaries: one module a promise. Needs root.

mod certificates_rotate_under_load;
mod connections_are_carried_faithfully;
mod load_is_balanced;
mod names_are_answered;
mod no_pod_is_taken_for_another;
mod outsiders_meet_the_mesh;
mod pods_wait_for_a_proxy;
mod policy_is_enforced_by_name;
mod probes_of_the_node_pass;
mod proxy_ports_are_no_way_around;
mod the_agent_may_die;
mod the_control_plane_may_vanish;
mod the_lab_itself;
mod the_proxy_has_no_privileges;
mod the_proxy_may_die;
mod traffic_is_encrypted;
mod what_happened_is_told;
mod what_is_not_tcp_passes;
