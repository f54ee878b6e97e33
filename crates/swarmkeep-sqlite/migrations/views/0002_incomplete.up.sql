-- Sessions of which not everything could be read when their rows were made: they are made again when it can be.
CREATE TABLE incomplete_sessions (
    session_id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
