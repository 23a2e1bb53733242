//! On Kubernetes, with a real API server: one module a promise.

mod a_label_is_all_that_it_takes;
mod agents_come_and_go;

mod commands_in_pods;
mod conformance;
mod definitions;
mod hard_to_read;
mod identities;
mod installed;
mod leases;
mod mesh;
mod programmed;
mod roots;
mod scene;
mod statuses;
mod subscriber;
mod the_api_server_itself;
mod the_chart;
mod the_command_line;
mod the_command_line_on_a_mesh;
mod the_control_plane_watches;
mod the_kubelet_itself;
mod the_whole_mesh;
mod trust_bundles;
mod written;
