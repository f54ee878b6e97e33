//! Names of things: sessions, entities, positions, hashes, requests, actors.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::{Refusal, RefusalCode},
    limits,
};

/// Position of a record in its session, counted from 1; 0 stands before the first record.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first record.
    pub const ZERO: Seq = Seq(0);

    /// The seq after this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The holder's fencing token, compared inside every append. On one machine it is the store's incarnation: one more at
/// every open or restore.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Refusal;

            fn from_str(text: &str) -> Result<Self, Refusal> {
                let bad = || Refusal::new(
                    RefusalCode::Invalid,
                    format!(concat!(stringify!($name), " `{}` is not ", $len, " bytes in lower-case hex"), text.chars().take(80).collect::<String>()),
                );
                if text.len() != 2 * $len {
                    return Err(bad());
                }
                let mut bytes = [0u8; $len];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
                    if pair.bytes().any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
                        return Err(bad());
                    }
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(|refusal: Refusal| de::Error::custom(refusal.message))
            }
        }
    };
}

hex_bytes!(
    /// BLAKE3, 32 bytes; hex in text.
    Hash, 32
);
hex_bytes!(
    /// Names a session in every store: the first 16 bytes of BLAKE3 over its namespace and name (see [`SessionName::id`]),
    /// so that a name is found without an index and two machines agree on it without asking each other.
    SessionId, 16
);
hex_bytes!(
    /// Names a blob inside its session: BLAKE3 of the stored bytes.
    BlobId, 32
);

/// What people call a session: `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionName {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl SessionName {
    /// The namespace of a name that gives none.
    pub const DEFAULT_NAMESPACE: &'static str = "default";

    /// Both parts: 1 to [`limits::NAME_BYTES`] of `A–Z a–z 0–9 . _ -`, starting with a letter or digit.
    ///
    /// # Errors
    /// `invalid` for anything else.
    pub fn new(namespace: &str, name: &str) -> Result<Self, Refusal> {
        check_name("namespace", namespace)?;
        check_name("session name", name)?;
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name inside the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The session's id: a function of the name alone.
    #[must_use]
    pub fn id(&self) -> SessionId {
        let mut hasher = blake3::Hasher::new_derive_key("swarmkeep 2026 session id v1");
        hasher.update(self.namespace.as_bytes());
        hasher.update(&[0]);
        hasher.update(self.name.as_bytes());
        let mut id = [0u8; 16];
        hasher.finalize_xof().fill(&mut id);
        SessionId(id)
    }
}

fn check_name(what: &str, text: &str) -> Result<(), Refusal> {
    let ok = !text.is_empty()
        && text.len() <= limits::NAME_BYTES
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if ok {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Invalid,
        format!(
            "{what} `{}`: use 1 to {} of A-Z a-z 0-9 . _ - and begin with a letter or digit",
            text.chars().take(80).collect::<String>(),
            limits::NAME_BYTES
        ),
    ))
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for SessionName {
    type Err = Refusal;

    /// `name` or `namespace/name`.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new(Self::DEFAULT_NAMESPACE, text),
        }
    }
}

impl Serialize for SessionName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| de::Error::custom(refusal.message))
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// 1 to [`limits::ID_BYTES`] bytes of UTF-8 without control characters.
            ///
            /// # Errors
            /// `invalid` for anything else.
            pub fn new(text: impl AsRef<str>) -> Result<Self, Refusal> {
                let text = text.as_ref();
                if text.is_empty() || text.len() > limits::ID_BYTES || text.chars().any(char::is_control) {
                    return Err(Refusal::new(
                        RefusalCode::Invalid,
                        format!(
                            concat!($what, " `{}`: use 1 to {} bytes of UTF-8 without control characters"),
                            text.chars().filter(|c| !c.is_control()).take(80).collect::<String>(),
                            limits::ID_BYTES
                        ),
                    ));
                }
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Refusal;

            fn from_str(text: &str) -> Result<Self, Refusal> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(text).map_err(|refusal| de::Error::custom(refusal.message))
            }
        }
    };
}

text_id!(
    /// Names an agent, task, message, group, effect (its key), connection, or a memory scope or key inside one session.
    /// Callers may bring their own; else `kind-SEQ`, the seq of the record that made it.
    EntityId, "id"
);
text_id!(
    /// Who did it: an agent's id, `user:NAME`, a client's name, or `system`.
    Actor, "actor"
);

impl EntityId {
    /// An id that the engine makes: `kind-SEQ`. Short, unique in a session, the same on every replay.
    #[must_use]
    pub fn made(kind: &str, seq: Seq) -> Self {
        Self(format!("{kind}-{seq}").into())
    }
}

impl Actor {
    /// The engine itself: expiries, recovery.
    #[must_use]
    pub fn system() -> Self {
        Self("system".into())
    }
}

/// Names a request, so that the same request sent again is answered, not carried out again.
///
/// Two forms. `client:counter` (as text `worker-7:123`): the client counts up; the session remembers for each client the
/// newest [`limits::REQUESTS_PER_CLIENT`] and refuses older ones (`request_too_old`). Anything else is a free-form key,
/// remembered in a window of [`limits::REQUEST_KEYS`] per session and [`limits::REQUEST_KEY_AGE_MS`]; a free-form key
/// that has left the window is new again, so use counters where that would hurt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestId {
    /// A client that counts its requests, from 1.
    Counted {
        /// The client, unique among those that write this session.
        client: EntityId,
        /// Counts up from 1; gaps are allowed.
        counter: u64,
    },
    /// A key of the caller's making.
    Key(EntityId),
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Counted { client, counter } => write!(f, "{client}:{counter}"),
            RequestId::Key(key) => key.fmt(f),
        }
    }
}

impl FromStr for RequestId {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        if let Some((client, counter)) = text.rsplit_once(':')
            && !client.is_empty()
            && counter.bytes().all(|byte| byte.is_ascii_digit())
            && !counter.starts_with('0')
            && let Ok(counter) = counter.parse()
        {
            return Ok(RequestId::Counted { client: EntityId::new(client)?, counter });
        }
        Ok(RequestId::Key(EntityId::new(text)?))
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(|refusal: Refusal| de::Error::custom(refusal.message))
    }
}
