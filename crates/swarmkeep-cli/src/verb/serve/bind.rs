//! Where a daemon listens: its settings as the engine and the server want them, checked before anything is touched.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use swarmkeep::{Actor, ErrorKind, Swarmkeep};
use swarmkeep_server::{Beside, Secret, Server, ServerSettings, Tls};

use super::refused;
use crate::{
    context::Context,
    failure::Failure,
    served::Served,
    settings::{Said, Settings},
};

/// Longest path of a socket, with its closing zero and the suffix it is made under.
const SOCKET_PATH_BYTES: usize = 90;

/// Whether a daemon could be started with these settings: all that can be told without the store and without a port.
pub(in crate::verb) fn check(context: &Context, settings: &Settings) -> Result<(), Failure> {
    engine_settings(settings).check().map_err(refused)?;
    let mut server = server_settings(settings)?;
    server.control_socket = Some(context.place.socket());
    Server::check(&server).map_err(refused)
}

/// Whether it could listen where it is told to once the daemon that left `served` is gone.
pub(super) fn room(settings: &Settings, served: &Served) -> Result<(), Failure> {
    let server = server_settings(settings)?;
    let candidates = match settings.said("listen") {
        Said::Default => served.candidates(&server.listen, false, server.token.is_some()),
        _ => vec![Some(server.listen)],
    };
    let mut found = Ok(());
    for listen in candidates.into_iter().flatten() {
        found = listen.iter().try_for_each(|address| free(*address, served));
        if found.is_ok() {
            break;
        }
    }
    found
}

fn free(address: SocketAddr, served: &Served) -> Result<(), Failure> {
    let given_up = |its: &SocketAddr| {
        its.port() == address.port()
            && (its.ip() == address.ip() || its.ip().is_unspecified() || address.ip().is_unspecified())
    };
    match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && served.addresses.iter().any(given_up) => Ok(()),
        Err(error) => Err(Failure::unavailable(
            format!("cannot listen on {address}: {error}"),
            "choose another address with --listen; the daemon in the background goes on",
        )),
        Ok(_) => Ok(()),
    }
}

/// Whether its addresses begin with https.
pub(super) fn speaks_tls(settings: &Settings) -> bool {
    !settings.text("tls_certificate").is_empty()
}

pub(super) fn engine_settings(settings: &Settings) -> swarmkeep::Settings {
    swarmkeep::Settings {
        resident_bytes: settings.number("resident_bytes"),
        readers: usize::try_from(settings.number("readers")).unwrap_or(4),
        segment_bytes: settings.number("segment_bytes"),
        unapplied_bytes: settings.number("unapplied_bytes"),
        journal_keep: settings.number("journal_keep"),
        pack_after_ms: settings.number("pack_after"),
        accept_loss: settings.text("accept_loss") == "true",
    }
}

fn server_settings(settings: &Settings) -> Result<ServerSettings, Failure> {
    let token = match settings.text("token") {
        "" => None,
        token => Some(Secret::new(token).map_err(refused)?),
    };
    let tls = match (settings.text("tls_certificate"), settings.text("tls_key")) {
        ("", "") => None,
        ("", _) | (_, "") => {
            return Err(Failure::usage(
                "TLS needs both settings `tls_certificate` and `tls_key`",
                "set both, or neither",
            ));
        }
        (certificate, key) => Some(Tls { certificate: certificate.into(), key: key.into() }),
    };
    Ok(ServerSettings {
        listen: settings.list("listen").iter().filter_map(|address| address.parse().ok()).collect(),
        control_socket: None,
        hosts: settings.list("hosts"),
        origins: settings.list("origins"),
        token,
        tls,
        connections: usize::try_from(settings.number("connections")).unwrap_or(usize::MAX),
        feeds: usize::try_from(settings.number("feeds")).unwrap_or(usize::MAX),
        drain: Duration::from_millis(settings.number("drain")),
        ..ServerSettings::default()
    })
}

/// Listens. Where nobody says an address, it is the one at which the store was served last; a detached daemon that finds it
/// taken takes a free port, who asked for a port gets it or is told. The folder is held open where the socket's path goes
/// through it.
pub(super) async fn bind(
    context: &Context,
    settings: &Settings,
    keep: &Swarmkeep,
    detached: bool,
) -> Result<(Server, Option<File>), Failure> {
    let mut server = server_settings(settings)?;
    let (socket, folder) = socket_path(context, &context.place.socket())?;
    server.control_socket = Some(socket);
    if *settings.said("listen") != Said::Default {
        return Ok((Server::bind_with(keep.clone(), server, Some(mcp())).await.map_err(refused)?, folder));
    }
    let served = Served::read(&context.place);
    let mut candidates = served.candidates(&server.listen, detached, server.token.is_some()).into_iter().peekable();
    while let Some(listen) = candidates.next() {
        if listen.is_none() {
            tracing::warn!(
                "this store was served with a token, and none is set: answering at the control socket alone"
            );
        }
        server.listen = listen.unwrap_or_default();
        match Server::bind_with(keep.clone(), server.clone(), Some(mcp())).await {
            // Taken; or not allowed without the TLS that it was served with.
            Err(error)
                if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Invalid) && candidates.peek().is_some() =>
            {
                tracing::info!(%error, "trying another address");
            }
            bound => return Ok((bound.map_err(refused)?, folder)),
        }
    }
    Err(Failure::unavailable("there is no address to listen on", "say one: --listen 127.0.0.1:7420"))
}

/// The MCP server, beside the API and behind the same guard.
fn mcp() -> Beside {
    Beside {
        caller: "mcp".parse().unwrap_or_else(|_| Actor::system()),
        mount: Box::new(|ground| swarmkeep_mcp::serve::router(ground.api, ground.closing)),
    }
}

/// A socket's path may have about 100 bytes; a longer one is reached through the open folder, where the system can.
pub(super) fn socket_path(context: &Context, path: &Path) -> Result<(PathBuf, Option<File>), Failure> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES || !cfg!(target_os = "linux") {
        return Ok((path.to_owned(), None));
    }
    let folder = File::open(&context.place.dir).map_err(|error| {
        Failure::unavailable(
            format!("{}: {error}", context.place.dir.display()),
            "`swarmkeep doctor` looks at the folder",
        )
    })?;
    let name = path.file_name().unwrap_or_default();
    let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((through, Some(folder)))
}
