//! Who listens while a decision is made. The proxy listens to nothing and pays nothing; `why` writes all down.

use std::sync::Arc;

use weft_model::{Authorization, PolicyName, Workload};

use crate::LeftOut;

pub(crate) trait Trace {
    /// A policy was evaluated; `rule` is the index of the first rule that matched.
    fn policy(&mut self, policy: &Arc<Authorization>, rule: Option<usize>) {
        let _ = (policy, rule);
    }

    fn unknown_policy(&mut self, name: &PolicyName) {
        let _ = name;
    }

    fn left_out(&mut self, workload: &Arc<Workload>, reason: LeftOut) {
        let _ = (workload, reason);
    }
}

#[derive(Debug)]
pub(crate) struct Quiet;

impl Trace for Quiet {}
