DROP TABLE incomplete_sessions;
