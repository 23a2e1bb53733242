//! How the API server is reached, and how long it may be silent.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::KubernetesError;
use super::watch::WATCH;

#[cfg(test)]
mod tests;

/// A connection on which nothing came for so long after the last request is dead, as when a firewall forgot it. A watch
/// is silent for as long as nothing changes, and is ended by the server before that.
const SILENCE: Duration = Duration::from_secs(130);
const _: () = assert!(WATCH.as_secs() < SILENCE.as_secs());

/// Clients of one API server.
pub(super) struct Access {
    /// For who asks once, within a time of his own.
    pub(super) asked: Client,
    /// For who tries again for ever, and says that he does.
    pub(super) followed: Client,
}

impl Access {
    /// Nothing is asked yet.
    pub(super) async fn new(kubeconfig: Option<&Path>) -> Result<Self, KubernetesError> {
        let config = patient(config(kubeconfig).await?, SILENCE);
        let followed = client(told_of_refusals(config.clone()))?;
        Ok(Self { asked: client(config)?, followed })
    }
}

fn client(config: Config) -> Result<Client, KubernetesError> {
    Client::try_from(config).map_err(|error| KubernetesError::Client(Box::new(error)))
}

fn patient(mut config: Config, silence: Duration) -> Config {
    config.read_timeout = Some(silence);
    // Else the time for which a connection was not used would count.
    config.reset_reader_on_write = true;
    config
}

/// The library would ask again up to 15 times before it said so, and at the pace that the server wishes.
fn told_of_refusals(mut config: Config) -> Config {
    config.default_retry = false;
    config
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, KubernetesError> {
    let Some(path) = kubeconfig else {
        let nothing = |error| KubernetesError::Nothing(Box::new(error));
        return Config::infer().await.map_err(nothing);
    };
    let failed =
        |source| KubernetesError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let read = Kubeconfig::read_from(path).map_err(failed)?;
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(read, &options).await.map_err(failed)
}
