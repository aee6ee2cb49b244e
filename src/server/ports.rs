//! Where the server's sockets come from, what there is room for, and who may have them next; warnings
//! of what is missing around the process.

use std::net::{SocketAddr, TcpListener};

use tracing::warn;

use super::StartError;
use crate::admin;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::handover::Offer;
use crate::listener::{self, Given};
use crate::machine;
use crate::shutdown::Shutdown;
use crate::upstream::Roots;

/// The public sockets, given ones first, and where they listen.
pub(super) fn open_public(
    listen: &config::Listen,
    given: &mut Given,
) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), StartError> {
    if let Some(departure) = given.departure(&listen.address) {
        warn!("{departure}");
    }
    let mut sockets = std::mem::take(&mut given.public);
    if sockets.is_empty() {
        sockets = listener::bind(&listen.address, listen.reuse_port)?;
    }
    let addresses = sockets.iter().map(TcpListener::local_addr).collect::<Result<_, _>>();
    Ok((sockets, addresses.map_err(StartError::Socket)?))
}

/// The offer of the sockets to a process that comes after, where that is configured.
pub(super) fn offer(
    listen: &config::Listen,
    sockets: &[TcpListener],
    admin: Option<&admin::Running>,
    clock: &Clock,
    shutdown: &Shutdown,
) -> Result<Option<Offer>, StartError> {
    let offered = listen.handover.as_deref().map(|path| {
        Offer::at(path, sockets, admin.map(admin::Running::socket), clock.clone(), shutdown)
            .map_err(|cause| StartError::Handover { path: path.to_owned(), cause })
    });
    offered.transpose()
}

/// The most connections there is room for; warns of what does not fit into the process's limits.
pub(super) fn room(config: &Config) -> usize {
    machine::warn_of_memory(config.cache.max_bytes);
    let (most, lowered) = listener::connection_cap(config.listen.connections);
    if let Some(lowered) = lowered {
        warn!("{lowered}");
    }
    most
}

pub(crate) fn warn_of_roots(config: &Config, roots: Roots) {
    let secure =
        config.upstreams.values().any(|upstream| upstream.url.scheme_str() == Some("https"));
    if secure && roots.system + roots.extra == 0 {
        warn!(
            "no certificate authority is trusted: every https upstream will fail; install ca-certificates or set upstream.ca_file"
        );
    }
}
