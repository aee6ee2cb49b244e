//! The files behind a configuration: the text itself, the callers' key, the operators' token, extra CA certificates.
//!
//! *Invariants*
//! 1. At most 1 MiB of any file is read, so that a device or a log named by mistake ends at once.
//! 2. Neither the content of a secret's file nor its path is quoted: the path may be the key, pasted there.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::fault::Fault;
use super::walk::Walk;
use super::{Admin, Caller, Config, Listen};

impl Caller {
    /// The key of the callers' digests, trimmed of white space; `None` = make up a random one.
    ///
    /// # Errors
    /// The file can't be read, or holds fewer than 32 bytes.
    pub fn key(&self) -> io::Result<Option<Vec<u8>>> {
        self.key_file.as_deref().map(|path| secret(path, KEY_LEAST)).transpose()
    }
}

impl Admin {
    /// The token that changes need, trimmed of white space; `None` = nothing can be changed.
    ///
    /// # Errors
    /// The file can't be read, or holds fewer than 16 bytes.
    pub fn token(&self) -> io::Result<Option<Vec<u8>>> {
        self.token_file.as_deref().map(|path| secret(path, TOKEN_LEAST)).transpose()
    }
}

/// The text of a configuration.
pub(super) fn text(path: &Path) -> Result<String, Fault> {
    let bytes = bytes(path).map_err(|error| {
        let remedy = "name one with --config FILE, or start from the shipped config.toml";
        Fault::new(format!("can't be read: {error}"), remedy)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = before.filter(|byte| **byte == b'\n').count().saturating_add(1);
        Fault::new(format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })
}

/// Checks the files that a configuration names.
pub(super) fn check(config: &Config, walk: &mut Walk<'_>) {
    let (caller, admin) = (&config.caller, &config.admin);
    secret_file("caller.key_file", caller.key_file.as_deref(), caller.key(), walk);
    secret_file("admin.token_file", admin.token_file.as_deref(), admin.token(), walk);
    let ca_file = config.upstream.ca_file.as_deref();
    pem_file("upstream.ca_file", ca_file, CERTIFICATE, "certificate", walk);
    tls(&config.listen, walk);
}

/// Certificate and key belong together; what is in them is read when the port opens.
fn tls(listen: &Listen, walk: &mut Walk<'_>) {
    let (certificate, key) = (CERTIFICATE_KEY, PRIVATE_KEY_KEY);
    match (&listen.tls_certificate_file, &listen.tls_key_file) {
        (None, None) => {
            if listen.tls_client_ca_file.is_some() {
                let fault = Fault::new(
                    "clients can show certificates over TLS only",
                    "set listen.tls_certificate_file and listen.tls_key_file, or write \"\" here",
                );
                walk.clash(&["listen.tls_client_ca_file"], fault);
            }
            return;
        }
        (Some(_), Some(_)) => {}
        _ => {
            let fault = Fault::new(
                "TLS needs a certificate and its key",
                "set both listen.tls_certificate_file and listen.tls_key_file, or neither",
            );
            return walk.clash(&[certificate, key], fault);
        }
    }
    let client_ca = listen.tls_client_ca_file.as_deref();
    pem_file(certificate, listen.tls_certificate_file.as_deref(), CERTIFICATE, "certificate", walk);
    pem_file(key, listen.tls_key_file.as_deref(), "PRIVATE KEY-----", "private key", walk);
    pem_file("listen.tls_client_ca_file", client_ca, CERTIFICATE, "certificate", walk);
    for_everyone(key, listen.tls_key_file.as_deref(), walk);
}

/// Checks that a file, if there is one, holds something in PEM: `label` marks it, `what` names it.
fn pem_file(key: &str, path: Option<&Path>, label: &str, what: &str, walk: &mut Walk<'_>) {
    let Some(path) = path else { return };
    let problem = match bytes(path) {
        Err(error) => format!("the file can't be read: {error}"),
        Ok(pem) if !contains(&pem, label.as_bytes()) => format!("the file holds no {what}"),
        Ok(_) => return,
    };
    let begins = what.to_ascii_uppercase();
    let remedy = format!("name a PEM file with at least one BEGIN {begins}, or write \"\"");
    walk.clash(&[key], Fault::new(problem, remedy));
}

/// Checks a file with a secret that was read.
fn secret_file(
    key: &str,
    path: Option<&Path>,
    read: io::Result<Option<Vec<u8>>>,
    walk: &mut Walk<'_>,
) {
    let keys = [key];
    let Some(path) = path else { return };
    if let Err(error) = read {
        let remedy = "make one with: head -c 32 /dev/urandom | base64 > FILE";
        return walk.clash(&keys, Fault::new(format!("the file can't be used: {error}"), remedy));
    }
    for_everyone(key, Some(path), walk);
}

/// Warns of a secret that every user of the machine can read.
fn for_everyone(key: &str, path: Option<&Path>, walk: &mut Walk<'_>) {
    let metadata = path.and_then(|path| path.metadata().ok());
    let mode = metadata.map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        let remedy = "chmod 0400 FILE; for a Secret of Kubernetes, defaultMode: 0400";
        walk.warn(&[key], Fault::new("every user of the machine can read the file", remedy));
    }
}

/// The secret in a file, of at least so many bytes.
fn secret(path: &Path, least: usize) -> io::Result<Vec<u8>> {
    let secret = bytes(path)?.trim_ascii().to_vec();
    if secret.len() < least {
        let told = format!("{} bytes are fewer than {least}", secret.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, told));
    }
    Ok(secret)
}

/// What stands in a file, at most 1 MiB of it.
///
/// # Errors
/// The file can't be read, or is larger.
pub(crate) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MOST) {
        return Ok(bytes);
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// How a certificate in PEM begins.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

const CERTIFICATE_KEY: &str = "listen.tls_certificate_file";
const PRIVATE_KEY_KEY: &str = "listen.tls_key_file";
const KEY_LEAST: usize = 32;
const TOKEN_LEAST: usize = 16;
const MOST: u64 = 1 << 20;
