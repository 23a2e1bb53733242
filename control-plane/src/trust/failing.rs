//! Which work on the CA fails right now, and why: told once, counted each time, and shown for as long as it lasts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use tracing::{error, warn};

use super::TrustError;
use crate::{
    causes::chain,
    metrics::{CaWork, Metrics},
};

#[derive(Debug)]
pub(super) struct Failing {
    metrics: Arc<Metrics>,
    now: Mutex<Vec<(CaWork, String)>>,
}

impl Failing {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, now: Mutex::default() }
    }

    /// Notes what came of it.
    pub(super) fn note<T>(&self, work: CaWork, came: &Result<T, TrustError>) {
        let mut now = self.now();
        let before = now.iter().position(|(failing, _)| *failing == work);
        let before = before.map(|at| now.swap_remove(at).1);
        let Err(error) = came else { return };
        self.metrics.ca_failed(work);
        let error = chain(error);
        if before.as_ref() != Some(&error) {
            match work {
                CaWork::Read => error!(error, "the CA is not usable: the last good one stays"),
                CaWork::Report => warn!(error, "what nodes trust is not written"),
                CaWork::Tend => warn!(error, "the CA is not tended"),
                CaWork::Share => warn!(error, "the cluster is not given the roots"),
            }
        }
        now.push((work, error));
    }

    pub(super) fn is(&self, work: CaWork) -> bool {
        self.now().iter().any(|(failing, _)| *failing == work)
    }

    /// By what is worked on.
    pub(super) fn told(&self) -> Value {
        let all = self.now();
        let all = all.iter().map(|(work, error)| (work.label().to_owned(), json!(error)));
        Value::Object(all.collect::<Map<_, _>>())
    }

    fn now(&self) -> MutexGuard<'_, Vec<(CaWork, String)>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
