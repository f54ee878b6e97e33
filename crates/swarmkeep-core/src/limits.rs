//! Every bound, by name. A limit that is hit gives a typed answer (`limit`), never a truncation.

/// Longest namespace or session name, in bytes.
pub const NAME_BYTES: usize = 128;
/// Longest entity id, actor or request key, in bytes.
pub const ID_BYTES: usize = 256;
/// Deepest nesting of a caller's JSON. Below serde_json's own recursion limit of 128, with room for our envelope.
pub const JSON_DEPTH: usize = 96;
/// Largest single JSON value (payload, result, memory value), in bytes. Larger content is a blob.
pub const JSON_BYTES: usize = 512 * 1024;
/// Largest frame, and so the largest group of records, in bytes.
pub const FRAME_BYTES: usize = 1024 * 1024;
/// Largest group of records with its inline blobs, in bytes: a frame less its header and directory.
pub const GROUP_BYTES: usize = FRAME_BYTES - 4096;
/// Most commands in one request.
pub const COMMANDS_PER_REQUEST: usize = 1024;
/// Blobs up to this size travel in the frame of the record that introduces them; larger ones are files.
pub const BLOB_INLINE_BYTES: usize = 64 * 1024;
/// Largest blob, in bytes.
pub const BLOB_BYTES: usize = 64 * 1024 * 1024;
/// Request ids remembered for each client that counts.
pub const REQUESTS_PER_CLIENT: u64 = 64;
/// Clients remembered in one session; the one silent longest is forgotten first, and only after [`REQUEST_KEY_AGE_MS`].
pub const REQUEST_CLIENTS: usize = 1024;
/// Free-form request keys remembered in one session.
pub const REQUEST_KEYS: usize = 64;
/// How long a free-form request key, or a silent client, is remembered, by record time.
pub const REQUEST_KEY_AGE_MS: u64 = 24 * 60 * 60 * 1000;
/// Bytes of answers remembered for each client that counts, and for all free-form keys of a session together; the newest
/// is always remembered.
pub const REQUEST_ANSWER_BYTES: usize = 64 * 1024;
/// Longest text of a caller (title, reason, error, name), in bytes. Longer content is JSON or a blob.
pub const TEXT_BYTES: usize = 64 * 1024;
/// Capabilities of one agent; topics it listens to.
pub const AGENT_LIST: usize = 1_000;
/// Messages and tasks that one command takes from an agent that ends, or that one `expire` sweeps up; the next `expire`
/// takes the rest.
pub const SWEEP: usize = 256;
/// Most messages handed over at once.
pub const RECEIVE: u32 = 100;
/// Agents in one session, terminated ones included.
pub const AGENTS: usize = 10_000;
/// Groups in one session.
pub const GROUPS: usize = 1_000;
/// Tasks in one session, ended ones included.
pub const TASKS: usize = 100_000;
/// Messages not yet consumed in one session.
pub const MESSAGES: usize = 100_000;
/// Memory entries in one session.
pub const MEMORY_ENTRIES: usize = 100_000;
/// Effects in one session, finished ones included (their outcomes are what a repeat is answered with).
pub const EFFECTS: usize = 100_000;
/// Tool calls without a result that one session keeps an eye on; more are recorded like any other text.
pub const OPEN_CALLS: usize = 10_000;
/// Tool calls, and results, that are noticed in one message or record.
pub const CALLS_PER_RECORD: usize = 128;
/// Connections in one session.
pub const CONNECTIONS: usize = 1_000;
/// Configuration keys in one session.
pub const CONFIG_KEYS: usize = 1_000;
/// Canonical bytes of one session's state.
pub const STATE_BYTES: usize = 64 * 1024 * 1024;
/// Beyond that: room kept for what became of effects. What happened outside has to be recorded also where nothing new may be
/// begun.
pub const STATE_BYTES_RESERVED: usize = 8 * 1024 * 1024;
/// Deliveries of a message to one agent before it becomes a dead letter.
pub const DELIVERIES: u32 = 16;
/// After this long without acknowledgement a delivered message is delivered again.
pub const REDELIVERY_AFTER_MS: u64 = 60_000;
/// Default length of a task lease.
pub const LEASE_MS: u64 = 60_000;
/// Longest lease, and longest deadline of an effect.
pub const LEASE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
/// Default deadline of an effect: a model call takes minutes.
pub const EFFECT_DEADLINE_MS: u64 = 10 * 60 * 1000;
/// An agent that sent heartbeats and then none for this long is overdue (seed: three beats of five seconds).
pub const HEARTBEAT_OVERDUE_MS: u64 = 15_000;
/// Default number of retries of a task.
pub const MAX_RETRIES: u32 = 3;
/// Most retries of a task.
pub const MAX_RETRIES_MAX: u32 = 1_000;
/// Observations (heartbeats, metrics) in one request.
pub const OBSERVATIONS_PER_REQUEST: usize = 1_000;

const _: () = assert!(JSON_BYTES < GROUP_BYTES, "a record with one largest value fits in a group");
const _: () = assert!(BLOB_INLINE_BYTES < GROUP_BYTES);
const _: () = assert!(JSON_DEPTH < 120, "serde_json refuses at 128");
