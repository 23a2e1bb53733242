//! A pod's volumes: folders of the machine, filled as the pod says.
//!
//! Not done: secrets, claims, `subPath`; a token is not made again before it ends, which is later than any test.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{
        ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccount,
        ServiceAccountTokenProjection, Volume, VolumeProjection,
    },
};
use kube::{Api, Client, api::PostParams};

use super::{field::lookup, host::Host};
use crate::lab::Sandbox;

/// The files of a volume, by their paths in it.
type Files = BTreeMap<String, String>;

/// Who fills the volumes of one pod.
pub(super) struct Filler<'a> {
    pub(super) client: Client,
    pub(super) pod: &'a Pod,
    pub(super) sandbox: &'a Sandbox,
}

/// Makes the folder of a volume in `dir`, or finds it on the node. Errors: what it is made of is not there (yet).
pub(super) async fn make(
    filler: &Filler<'_>,
    volume: &Volume,
    host: &Host,
    dir: &Path,
) -> Result<PathBuf> {
    if let Some(on_host) = &volume.host_path {
        let path = host.path(Path::new(&on_host.path));
        if on_host.type_.as_deref() == Some("DirectoryOrCreate") {
            fs::create_dir_all(&path)?;
        }
        fs::metadata(&path).with_context(|| format!("hostPath {}", on_host.path))?;
        return Ok(path);
    }
    let path = dir.join(&volume.name);
    let is_new = !path.exists();
    fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    if volume.empty_dir.is_some() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    } else if is_new || volume.config_map.is_some() {
        write(&path, &filler.files(volume).await?)?;
    }
    Ok(path)
}

/// Writes what changed, each file at once.
fn write(dir: &Path, files: &Files) -> Result<()> {
    for (name, text) in files {
        let path = dir.join(name);
        if fs::read_to_string(&path).is_ok_and(|is| is == *text) {
            continue;
        }
        fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
        let part = path.with_extension("part");
        fs::write(&part, text).with_context(|| format!("write {}", part.display()))?;
        fs::rename(&part, &path)?;
    }
    Ok(())
}

impl Filler<'_> {
    async fn files(&self, volume: &Volume) -> Result<Files> {
        if let Some(map) = &volume.config_map {
            return self.config_map(&map.name, map.items.as_deref(), map.optional).await;
        }
        match &volume.projected {
            Some(projected) => self.projected(projected).await,
            None => bail!("volume {}: this kubelet has no volumes of its kind", volume.name),
        }
    }

    async fn projected(&self, volume: &ProjectedVolumeSource) -> Result<Files> {
        let mut files = Files::new();
        for source in volume.sources.iter().flatten() {
            files.extend(self.source(source).await?);
        }
        Ok(files)
    }

    async fn source(&self, source: &VolumeProjection) -> Result<Files> {
        if let Some(token) = &source.service_account_token {
            return Ok(Files::from([(token.path.clone(), self.token(token).await?)]));
        }
        if let Some(map) = &source.config_map {
            return self.config_map(&map.name, map.items.as_deref(), map.optional).await;
        }
        let fields = source.downward_api.as_ref().and_then(|api| api.items.as_ref());
        let fields = fields.context("this kubelet does not know such a source of a volume")?;
        let file = |file: &DownwardAPIVolumeFile| {
            let value = lookup(file.field_ref.as_ref()?, self.pod, self.sandbox);
            Some((file.path.clone(), value))
        };
        Ok(fields.iter().filter_map(file).collect())
    }

    /// Of the pod's service account, bound to the pod.
    async fn token(&self, of: &ServiceAccountTokenProjection) -> Result<String> {
        let account = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let spec = TokenRequestSpec {
            audiences: of.audience.clone().map(|audience| vec![audience]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: self.pod.metadata.name.clone(),
                uid: self.pod.metadata.uid.clone(),
            }),
            expiration_seconds: of.expiration_seconds,
            ..Default::default()
        };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), self.namespace());
        let account = account.unwrap_or("default");
        let made = api.create_token_request(account, &PostParams::default(), &request).await;
        let made = made.with_context(|| format!("ask for a token of {account}"))?;
        made.status.and_then(|status| status.token).context("a token request without a token")
    }

    async fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<Files> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), self.namespace());
        let found = api.get_opt(name).await.with_context(|| format!("read ConfigMap {name}"))?;
        let Some(map) = found else {
            anyhow::ensure!(optional == Some(true), "configmap {name:?} not found");
            return Ok(Files::new());
        };
        let data = map.data.unwrap_or_default();
        let Some(items) = items else { return Ok(data) };
        let item = |item: &KeyToPath| Some((item.path.clone(), data.get(&item.key)?.clone()));
        Ok(items.iter().filter_map(item).collect())
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
}
