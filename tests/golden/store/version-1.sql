BEGIN TRANSACTION;
CREATE TABLE chunks (
	digest VARCHAR(64) NOT NULL, 
	plain_bytes INTEGER NOT NULL, 
	payload_bytes INTEGER NOT NULL, 
	is_published BOOLEAN NOT NULL, 
	PRIMARY KEY (digest)
);
CREATE TABLE confirmed (
	id INTEGER NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	manifest VARCHAR(64) NOT NULL, 
	body TEXT NOT NULL, 
	confirmed_unix_ms BIGINT NOT NULL, 
	is_void BOOLEAN NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
INSERT INTO "confirmed" VALUES(1,'cam-1','digits','1.0.0','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"name":"digits","version":"1.0.0","manifest":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","index":"0000000000000000000000000000000000000000000000000000000000000000","mode":"active","rollout":null,"probation":{"min_s":60.0,"max_s":3600.0,"min_inferences":1},"guards":{"error_ratio":0.05,"min_requests":20}}',3000,0);
CREATE TABLE desired (
	device VARCHAR(64) NOT NULL, 
	generation BIGINT NOT NULL, 
	PRIMARY KEY (device), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
INSERT INTO "desired" VALUES('cam-1',1);
CREATE TABLE desired_models (
	device VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	manifest VARCHAR(64) NOT NULL, 
	generation BIGINT NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (device, model), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
INSERT INTO "desired_models" VALUES('cam-1','digits','1.0.0','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1,'{"name":"digits","version":"1.0.0","manifest":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","index":"0000000000000000000000000000000000000000000000000000000000000000","mode":"active","rollout":null,"probation":{"min_s":60.0,"max_s":3600.0,"min_inferences":1},"guards":{"error_ratio":0.05,"min_requests":20}}');
CREATE TABLE devices (
	id VARCHAR(64) NOT NULL, 
	created_unix_ms BIGINT NOT NULL, 
	last_seen_unix_ms BIGINT, 
	PRIMARY KEY (id)
);
INSERT INTO "devices" VALUES('cam-1',1000,NULL);
INSERT INTO "devices" VALUES('cam-2',1000,NULL);
CREATE TABLE events (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at_unix_ms BIGINT NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	subject VARCHAR(128) NOT NULL, 
	text TEXT NOT NULL, 
	detail TEXT NOT NULL
);
INSERT INTO "events" VALUES(1,1000,'device','cam-1','added','{}');
CREATE TABLE meta (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
CREATE TABLE presence (
	device VARCHAR(64) NOT NULL, 
	state VARCHAR(8) NOT NULL, 
	boot VARCHAR(16) NOT NULL, 
	birth BIGINT NOT NULL, 
	former_boot VARCHAR(16) NOT NULL, 
	agent VARCHAR(64) NOT NULL, 
	since_unix_ms BIGINT NOT NULL, 
	PRIMARY KEY (device), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
CREATE TABLE publications (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	topic VARCHAR(128) NOT NULL, 
	payload TEXT NOT NULL, 
	UNIQUE (topic)
);
INSERT INTO "publications" VALUES(1,'fleet/v1/device/cam-1/desired','{}');
CREATE TABLE records (
	device VARCHAR(64) NOT NULL, 
	boot VARCHAR(16) NOT NULL, 
	seq BIGINT NOT NULL, 
	channel VARCHAR(32) NOT NULL, 
	received_unix_ms BIGINT NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (device, boot, seq), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
INSERT INTO "records" VALUES('cam-1','bbbbbbbbbbbbbbbb',1,'telemetry/vitals',2000,'{}');
CREATE TABLE release_chunks (
	manifest VARCHAR(64) NOT NULL, 
	chunk VARCHAR(64) NOT NULL, 
	PRIMARY KEY (manifest, chunk), 
	FOREIGN KEY(chunk) REFERENCES chunks (digest)
);
CREATE TABLE releases (
	model VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	manifest VARCHAR(64) NOT NULL, 
	index_digest VARCHAR(64) NOT NULL, 
	bytes BIGINT NOT NULL, 
	chunk_count INTEGER NOT NULL, 
	manifest_body TEXT NOT NULL, 
	created_unix_ms BIGINT NOT NULL, 
	PRIMARY KEY (model, version), 
	UNIQUE (manifest)
);
CREATE TABLE reported (
	device VARCHAR(64) NOT NULL, 
	boot VARCHAR(16) NOT NULL, 
	seq BIGINT NOT NULL, 
	generation BIGINT NOT NULL, 
	quarantined TEXT NOT NULL, 
	inventory TEXT NOT NULL, 
	received_unix_ms BIGINT NOT NULL, 
	PRIMARY KEY (device), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
CREATE TABLE reported_models (
	device VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	active_version VARCHAR(64), 
	active_manifest VARCHAR(64), 
	fallback_version VARCHAR(64), 
	target_manifest VARCHAR(64), 
	outcome VARCHAR(32), 
	code VARCHAR(64), 
	detail TEXT NOT NULL, 
	served BIGINT NOT NULL, 
	PRIMARY KEY (device, model), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
CREATE TABLE rollout_members (
	rollout VARCHAR(64) NOT NULL, 
	device VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	phase INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	generation BIGINT, 
	previous_version VARCHAR(64), 
	previous_manifest VARCHAR(64), 
	confirmed_unix_ms BIGINT, 
	code VARCHAR(64), 
	detail TEXT NOT NULL, 
	PRIMARY KEY (rollout, device), 
	FOREIGN KEY(rollout) REFERENCES rollouts (id) ON DELETE CASCADE
);
CREATE TABLE rollout_phases (
	rollout VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	share VARCHAR(16) NOT NULL, 
	size INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	opened_unix_ms BIGINT, 
	closed_unix_ms BIGINT, 
	PRIMARY KEY (rollout, position), 
	FOREIGN KEY(rollout) REFERENCES rollouts (id) ON DELETE CASCADE
);
CREATE TABLE rollouts (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	manifest VARCHAR(64) NOT NULL, 
	"match" TEXT NOT NULL, 
	body TEXT NOT NULL, 
	soak_s FLOAT NOT NULL, 
	tolerance INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	created_unix_ms BIGINT NOT NULL, 
	ended_unix_ms BIGINT, 
	PRIMARY KEY (number), 
	UNIQUE (id)
);
CREATE TABLE tags (
	device VARCHAR(64) NOT NULL, 
	"key" VARCHAR(32) NOT NULL, 
	value VARCHAR(64) NOT NULL, 
	PRIMARY KEY (device, "key"), 
	FOREIGN KEY(device) REFERENCES devices (id) ON DELETE CASCADE
);
INSERT INTO "tags" VALUES('cam-1','site','lab');
CREATE INDEX ix_chunks_is_published ON chunks (is_published);
CREATE INDEX ix_rollouts_model ON rollouts (model);
CREATE INDEX ix_rollouts_state ON rollouts (state);
CREATE INDEX tags_by_value ON tags ("key", value);
CREATE INDEX ix_reported_models_active_manifest ON reported_models (active_manifest);
CREATE INDEX confirmed_by_device ON confirmed (device, model);
CREATE INDEX release_chunks_by_chunk ON release_chunks (chunk);
CREATE INDEX records_by_time ON records (received_unix_ms);
CREATE INDEX records_by_channel ON records (device, channel, received_unix_ms);
CREATE INDEX rollout_members_by_device ON rollout_members (device);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',1);
INSERT INTO "sqlite_sequence" VALUES('publications',1);
COMMIT;
