//! Who may say what to whom in one cluster: its certificates, and the key that signs tokens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

/// A certificate authority and where its files are.
#[derive(Debug)]
pub(super) struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of one certificate.
#[derive(Debug, Clone)]
pub(super) struct Credential {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Authority {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "weft test cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self { dir: dir.to_owned(), issuer };
        write(&authority.root(), &authority.issuer.pem())?;
        let tokens = KeyPair::generate()?;
        write(&authority.token_key(), &tokens.serialize_pem())?;
        write(&authority.token_public_key(), &tokens.public_key_pem())?;
        Ok(authority)
    }

    /// The root's certificate.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    /// The key that signs tokens of service accounts.
    pub(super) fn token_key(&self) -> PathBuf {
        self.dir.join("tokens.key")
    }

    pub(super) fn token_public_key(&self) -> PathBuf {
        self.dir.join("tokens.pub")
    }

    /// The certificate of a server with these names and addresses.
    pub(super) fn server(&self, name: &str, at: &[&str]) -> Result<Credential> {
        let at: Vec<String> = at.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(at)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(name, params)
    }

    /// The certificate of a client, which the API server takes for this user of this group.
    pub(super) fn client(&self, user: &str, group: &str) -> Result<Credential> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&user.replace(':', "-"), params)
    }

    /// A kubeconfig with which `who` calls the API server at this URL.
    pub(super) fn kubeconfig(&self, name: &str, url: &str, who: &Credential) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{
                "name": name,
                "cluster": {"server": url, "certificate-authority": self.root()},
            }],
            "users": [{
                "name": name,
                "user": {"client-certificate": who.certificate, "client-key": who.key},
            }],
        });
        let path = self.dir.join(format!("{name}.kubeconfig"));
        write(&path, &config.to_string())?;
        Ok(path)
    }

    fn issue(&self, name: &str, mut params: CertificateParams) -> Result<Credential> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Credential {
            certificate: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        write(&files.certificate, &certificate.pem())?;
        write(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
