//! Counts what a certificate service answers.

use std::sync::Arc;

use weft_model::Identity;

use super::{ServiceError, renewer::CertificateSource};
use crate::telemetry::{Answered, Recorder};

/// A source whose answers are counted, whatever they are.
#[derive(Debug)]
pub struct Counted<S> {
    source: S,
    recorder: Recorder,
}

impl<S> Counted<S> {
    pub fn new(source: S, recorder: Recorder) -> Self {
        Self { source, recorder }
    }
}

impl<S: CertificateSource> CertificateSource for Counted<S> {
    async fn sign(
        &self,
        identity: &Identity,
        pods: Vec<Arc<str>>,
        request: String,
    ) -> Result<Vec<String>, ServiceError> {
        let signed = self.source.sign(identity, pods, request).await;
        self.recorder.certificate(match &signed {
            Ok(_) => Answered::Success,
            Err(_) => Answered::Failure,
        });
        signed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Metrics,
        telemetry::{Format, Telemetry},
    };

    struct Ca(Result<(), ()>);

    impl CertificateSource for Ca {
        async fn sign(
            &self,
            _: &Identity,
            _: Vec<Arc<str>>,
            _: String,
        ) -> Result<Vec<String>, ServiceError> {
            self.0.map(|()| Vec::new()).map_err(|()| ServiceError::NotConfigured)
        }
    }

    #[tokio::test]
    async fn every_answer_is_counted_by_its_result() {
        let telemetry = Telemetry::new(&Metrics::default(), 0, None);
        let identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        for answer in [Ok(()), Ok(()), Err(())] {
            let source = Counted::new(Ca(answer), telemetry.control());
            let signed = source.sign(&identity, Vec::new(), String::new()).await;
            assert_eq!(signed.is_ok(), answer.is_ok());
        }
        let text = telemetry.render(Format::Prometheus);
        assert!(text.contains("weft_certificate_requests_total{result=\"success\"} 2\n"));
        assert!(text.contains("weft_certificate_requests_total{result=\"failure\"} 1\n"));
    }
}
