use super::*;

#[test]
fn labels_say_in_out_or_nothing_and_out_wins() {
    for (istio, ours, wish) in [
        (None, None, Wish::Unsaid),
        (Some("ambient"), None, Wish::In),
        (None, Some("enabled"), Wish::In),
        (Some("none"), None, Wish::Out),
        (None, Some("disabled"), Wish::Out),
        (Some("ambient"), Some("disabled"), Wish::Out),
        (Some("none"), Some("enabled"), Wish::Out),
        (Some("ambient"), Some("enabled"), Wish::In),
        (Some("sidecar"), None, Wish::Unsaid),
        (Some("enabled"), Some("ambient"), Wish::Unsaid),
        (Some(""), Some("Enabled"), Wish::Unsaid),
    ] {
        let label = |key: &str| match key {
            ISTIO_LABEL => istio,
            WEFT_LABEL => ours,
            _ => None,
        };
        assert_eq!(Wish::of(label), wish, "{istio:?} {ours:?}");
    }
}

#[test]
fn a_pod_is_enrolled_as_its_labels_say_and_else_as_its_namespaces() {
    use Enrollment::{Enrolled, Out};
    use PodLife::{Finished, Going};
    use PodNetwork::{Host, Own};
    use Wish::{In, Unsaid};
    for (namespace, pod, network, life, answer) in [
        (Unsaid, Unsaid, Own, Going, Out(Reason::NotAsked)),
        (In, Unsaid, Own, Going, Enrolled),
        (Unsaid, In, Own, Going, Enrolled),
        (In, Wish::Out, Own, Going, Out(Reason::OptedOut)),
        (Wish::Out, Unsaid, Own, Going, Out(Reason::OptedOut)),
        (Wish::Out, In, Own, Going, Enrolled),
        (In, In, Host, Going, Out(Reason::HostNetwork)),
        (In, In, Own, Finished, Out(Reason::Finished)),
        (In, In, Host, Finished, Out(Reason::HostNetwork)),
    ] {
        let candidate = Candidate { namespace, pod, network, life };
        assert_eq!(enrollment(candidate), answer, "{candidate:?}");
    }
}

#[test]
fn only_a_finished_pod_is_finished() {
    for (phase, life) in [
        (None, PodLife::Going),
        (Some("Pending"), PodLife::Going),
        (Some("Running"), PodLife::Going),
        (Some("Unknown"), PodLife::Going),
        (Some("Succeeded"), PodLife::Finished),
        (Some("Failed"), PodLife::Finished),
    ] {
        assert_eq!(PodLife::of(phase), life, "{phase:?}");
    }
}
