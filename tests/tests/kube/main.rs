//! On Kubernetes, with a real API server: one module a promise.

mod the_api_server_itself;
mod the_control_plane_watches;
