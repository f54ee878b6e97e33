//! The settings there are.

use super::value::Kind;

/// A setting.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its name in the file; with `SWARMKEEP_` and in capitals in the environment.
    pub(crate) name: &'static str,
    /// Another variable that sets it.
    pub(crate) old_name: Option<&'static str>,
    /// What it is when nobody says anything.
    pub(crate) default: &'static str,
    /// What it may be.
    pub(crate) kind: Kind,
    /// Not to be shown.
    pub(crate) secret: bool,
    /// For people.
    pub(crate) about: &'static str,
}

const fn known(name: &'static str, default: &'static str, kind: Kind, about: &'static str) -> Known {
    Known { name, old_name: None, default, kind, secret: false, about }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Where the daemon listens when nobody says anything.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:7420";

/// All of them, in the order in which they are shown.
pub(crate) const KNOWN: &[Known] = &[
    known(
        "listen",
        DEFAULT_LISTEN,
        Kind::Addresses,
        "where it answers over TCP; anything but loopback needs TLS and a token",
    ),
    Known {
        secret: true,
        ..known("token", "", Kind::Token, "every request over TCP must show it as a bearer token; none by default")
    },
    known("hosts", "", Kind::Words, "names besides loopback's that a request may give as its Host"),
    known("origins", "", Kind::Words, "web origins whose pages may call; none by default"),
    known("tls_certificate", "", Kind::File, "certificate chain, PEM"),
    known("tls_key", "", Kind::File, "its private key, PEM"),
    known("connections", "1024", Kind::Number(1, 1_000_000), "connections at once; more wait to be accepted"),
    known("feeds", "512", Kind::Number(0, 1_000_000), "feeds (SSE, WebSocket) at once; more are refused"),
    known(
        "drain",
        "5s",
        Kind::Time(0, 600_000),
        "how long a stop waits for requests in flight, and then for calls to tool servers",
    ),
    known(
        "resident_bytes",
        "100MiB",
        Kind::Bytes(MIB, 1 << 46),
        "budget for sessions in RAM; those longest unused are dropped from 80 % on",
    ),
    known("readers", "4", Kind::Number(4, 8), "pooled read-only connections to each database"),
    known(
        "segment_bytes",
        "8MiB",
        Kind::Bytes(MIB, 64 * MIB),
        "size of a journal segment, a multiple of 4 KiB; the journal takes at least two",
    ),
    known(
        "unapplied_bytes",
        "64MiB",
        Kind::Bytes(4 * MIB, 1 << 40),
        "acknowledged but not yet applied, before writers wait",
    ),
    known(
        "journal_keep",
        "1GiB",
        Kind::Bytes(0, 1 << 46),
        "disk for second copies of what the journal gave up, packed; 0: none, else 1 MiB or more",
    ),
    known("pack_after", "500ms", Kind::Time(0, 86_400_000), "a session untouched for this long is kept as bytes only"),
    known(
        "accept_loss",
        "false",
        Kind::OneOf(&["false", "true"]),
        "a session of which acknowledged state is lost goes back to what can be had, without waiting for a person",
    ),
    known(
        "log",
        "info",
        Kind::OneOf(&["error", "warn", "info", "debug", "trace"]),
        "how much the daemon says about itself",
    ),
    Known {
        old_name: Some("MAX_LOG_SIZE"),
        ..known(
            "max_log_size",
            "10MiB",
            Kind::Bytes(64 << 10, GIB),
            "daemon.log is set aside as daemon.log.1 when a start finds it larger",
        )
    },
    Known {
        old_name: Some("SYNC_INTERVAL"),
        ..known(
            "sync_interval",
            "30000",
            Kind::Time(1, 86_400_000),
            "accepted, without effect: every write is on disk before it is acknowledged",
        )
    },
    Known {
        old_name: Some("SNAPSHOT_INTERVAL"),
        ..known(
            "snapshot_interval",
            "300000",
            Kind::Time(1, 86_400_000),
            "accepted, without effect: a session is saved when its tail is as long as its state, at the latest after 30 s to 5 min by activity",
        )
    },
];
