//! Where the store was last served, kept in its folder as `served.json`: whoever starts its next daemon answers there again,
//! so that clients with a fixed address find it. A hint, like the text in `lock`: no data depends on it.

use std::{fs, io::Write, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path};

use serde::{Deserialize, Serialize};

use crate::place::Place;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Served {
    /// Where it answered over TCP.
    pub(crate) addresses: Vec<SocketAddr>,
    /// A port of them was given by the system, not asked for.
    pub(crate) port_was_given: bool,
    /// It wanted a token.
    pub(crate) wants_token: bool,
    /// The daemon.
    pub(crate) pid: u32,
    /// Another verb had started it.
    pub(crate) in_background: bool,
}

impl Served {
    /// What the last daemon left; the default where it left nothing that can be read.
    pub(crate) fn read(place: &Place) -> Self {
        let text = fs::read(path(place)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Leaves it, whole or not at all.
    pub(crate) fn leave(&self, place: &Place) -> std::io::Result<()> {
        let path = path(place);
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(self).map_err(std::io::Error::other)?)?;
        drop(file);
        fs::rename(&draft, &path)
    }

    /// The addresses to try, in this order, where nobody says any: `None` stands for the control socket alone.
    ///
    /// A background daemon goes on where the store was served last. It never does so without the token that was asked for
    /// there. One in the foreground goes on with an address that somebody chose, not with a port that the system gave.
    pub(crate) fn candidates(
        &self,
        default: &[SocketAddr],
        in_background: bool,
        has_token: bool,
    ) -> Vec<Option<Vec<SocketAddr>>> {
        let mut all = Vec::new();
        if in_background && self.wants_token && !has_token {
            return vec![None];
        }
        if !self.addresses.is_empty() && (in_background || !self.port_was_given) {
            all.push(Some(self.addresses.clone()));
        }
        if !all.contains(&Some(default.to_vec())) {
            all.push(Some(default.to_vec()));
        }
        if in_background {
            all.push(Some(vec![SocketAddr::from(([127, 0, 0, 1], 0))]));
        }
        all
    }
}

/// Addresses as URLs.
pub(crate) fn urls(addresses: &[SocketAddr], tls: bool) -> Vec<String> {
    let scheme = if tls { "https" } else { "http" };
    addresses.iter().map(|address| format!("{scheme}://{address}")).collect()
}

fn path(place: &Place) -> std::path::PathBuf {
    Path::new(&place.dir).join("served.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], port))]
    }

    #[test]
    fn the_last_address_comes_first_but_not_without_its_token() {
        let none = Served::default();
        assert_eq!(none.candidates(&at(7420), false, false), [Some(at(7420))]);
        assert_eq!(none.candidates(&at(7420), true, false), [Some(at(7420)), Some(at(0))]);
        let chosen = Served { addresses: at(9000), ..Served::default() };
        assert_eq!(chosen.candidates(&at(7420), false, false), [Some(at(9000)), Some(at(7420))]);
        assert_eq!(chosen.candidates(&at(7420), true, false), [Some(at(9000)), Some(at(7420)), Some(at(0))]);
        let given = Served { port_was_given: true, ..chosen.clone() };
        assert_eq!(given.candidates(&at(7420), false, false), [Some(at(7420))]);
        assert_eq!(given.candidates(&at(7420), true, false)[0], Some(at(9000)));
        let guarded = Served { wants_token: true, ..chosen };
        assert_eq!(guarded.candidates(&at(7420), true, false), [None]);
        assert_eq!(guarded.candidates(&at(7420), true, true)[0], Some(at(9000)));
    }
}
