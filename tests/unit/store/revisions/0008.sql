BEGIN TRANSACTION;
CREATE TABLE data_journal (
	name VARCHAR NOT NULL, 
	CONSTRAINT pk_data_journal PRIMARY KEY (name)
);
CREATE TABLE data_label (
	id INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	content BLOB NOT NULL, 
	join_on TEXT NOT NULL, 
	within_s FLOAT NOT NULL, 
	file BLOB NOT NULL, 
	rows BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	source TEXT NOT NULL, 
	imported_at BIGINT NOT NULL, 
	CONSTRAINT pk_data_label PRIMARY KEY (id), 
	CONSTRAINT uq_data_label_model_content UNIQUE (model, content)
);
CREATE TABLE data_prediction (
	id INTEGER NOT NULL, 
	model VARCHAR NOT NULL, 
	run INTEGER NOT NULL, 
	file BLOB NOT NULL, 
	rows BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	first_at BIGINT NOT NULL, 
	last_at BIGINT NOT NULL, 
	CONSTRAINT pk_data_prediction PRIMARY KEY (id), 
	CONSTRAINT uq_data_prediction_file UNIQUE (file)
);
CREATE TABLE data_snapshot (
	id INTEGER NOT NULL, 
	dataset VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	digest BLOB NOT NULL, 
	rows BIGINT NOT NULL, 
	segments INTEGER NOT NULL, 
	source TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	CONSTRAINT pk_data_snapshot PRIMARY KEY (id), 
	CONSTRAINT uq_data_snapshot_dataset_number UNIQUE (dataset, number), 
	CONSTRAINT uq_data_snapshot_dataset_digest UNIQUE (dataset, digest)
);
CREATE TABLE data_subject (
	file BLOB NOT NULL, 
	hashes BLOB NOT NULL, 
	CONSTRAINT pk_data_subject PRIMARY KEY (file)
);
INSERT INTO "data_subject" VALUES(X'000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F',X'000102030405060708090A0B0C0D0E0F');
CREATE TABLE registry_evidence (
	id INTEGER NOT NULL, 
	model_id INTEGER NOT NULL, 
	number INTEGER, 
	kind VARCHAR(40) NOT NULL, 
	verdict SMALLINT NOT NULL, 
	facts JSON NOT NULL, 
	recorded_at BIGINT NOT NULL, 
	CONSTRAINT pk_registry_evidence PRIMARY KEY (id), 
	CONSTRAINT fk_registry_evidence_model_id FOREIGN KEY(model_id) REFERENCES registry_model (id)
);
CREATE TABLE registry_failure (
	run_id INTEGER NOT NULL, 
	segment_id INTEGER NOT NULL, 
	stage VARCHAR(20) NOT NULL, 
	code VARCHAR(8) NOT NULL, 
	fingerprint VARCHAR(64) NOT NULL, 
	summary TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	CONSTRAINT pk_registry_failure PRIMARY KEY (run_id, segment_id), 
	CONSTRAINT fk_registry_failure_run_id FOREIGN KEY(run_id) REFERENCES registry_run (id), 
	CONSTRAINT fk_registry_failure_segment_id FOREIGN KEY(segment_id) REFERENCES registry_segment (id)
)
 WITHOUT ROWID

;
INSERT INTO "registry_failure" VALUES(1,1,'fit','MM306','boom','it raised','');
CREATE TABLE registry_model (
	id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	runs INTEGER NOT NULL, 
	score VARCHAR(63) NOT NULL, 
	CONSTRAINT pk_registry_model PRIMARY KEY (id), 
	CONSTRAINT uq_registry_model_name UNIQUE (name)
);
INSERT INTO "registry_model" VALUES(1,'air-time',1,'mae');
CREATE TABLE registry_pack (
	id INTEGER NOT NULL, 
	run_id INTEGER NOT NULL, 
	chunk INTEGER NOT NULL, 
	digest BLOB, 
	bytes BIGINT NOT NULL, 
	recorded_at BIGINT NOT NULL, 
	CONSTRAINT pk_registry_pack PRIMARY KEY (id), 
	CONSTRAINT uq_registry_pack_run_id_chunk UNIQUE (run_id, chunk), 
	CONSTRAINT fk_registry_pack_run_id FOREIGN KEY(run_id) REFERENCES registry_run (id)
);
INSERT INTO "registry_pack" VALUES(1,1,0,X'EFFB877CD78235727454BFEF9EA4231C6CA1ACAE5DE5CE02036650BC9069E48A',149,1795419823713585);
CREATE TABLE registry_run (
	id INTEGER NOT NULL, 
	model_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	idempotency_key VARCHAR(64) NOT NULL, 
	"plan" BLOB NOT NULL, 
	snapshot BLOB NOT NULL, 
	code BLOB NOT NULL, 
	model BLOB NOT NULL, 
	lock BLOB NOT NULL, 
	host BLOB NOT NULL, 
	declaration BLOB NOT NULL, 
	"commit" VARCHAR(64) NOT NULL, 
	diff BLOB, 
	parameters JSON NOT NULL, 
	tags JSON NOT NULL, 
	seed BIGINT NOT NULL, 
	started_at BIGINT NOT NULL, 
	finished_at BIGINT, 
	counts JSON NOT NULL, 
	map BLOB, 
	signature BLOB, 
	CONSTRAINT pk_registry_run PRIMARY KEY (id), 
	CONSTRAINT uq_registry_run_model_id_number UNIQUE (model_id, number), 
	CONSTRAINT fk_registry_run_model_id FOREIGN KEY(model_id) REFERENCES registry_model (id), 
	CONSTRAINT uq_registry_run_idempotency_key UNIQUE (idempotency_key)
);
INSERT INTO "registry_run" VALUES(1,1,1,'partial','train','00000000000000000000000000000000',X'64879F7D6B960A01909762D911A32D4582C20010C5641EE90278B644A9E3B525',X'DEAE32CC1438A4A74B0D9E6DB3BBDA7D0E44494E9808647879D7818C390FB95C',X'78C5F6C6DD1CED730047AEE008A1D8FFFB79274B9926B27D9675FC20F06D5FB7',X'9372C470EEADD5ECD9C3C74C2B3CB633F8E2F2FAD799250A0F70D652B6B825E4',X'DEAE32CC1438A4A74B0D9E6DB3BBDA7D0E44494E9808647879D7818C390FB95C',X'DEAE32CC1438A4A74B0D9E6DB3BBDA7D0E44494E9808647879D7818C390FB95C',X'DEAE32CC1438A4A74B0D9E6DB3BBDA7D0E44494E9808647879D7818C390FB95C','',NULL,'{}','{"team":"north"}',0,1795419823707145,1795419823722366,'{"built":2,"failed":1}',X'60BE9861750FACBFAD8758254A2F76C0CFE78D54459A3BC187D49B1401FCD8E8',X'6D206C39089933CC6E6C7E9C04EE9CF3C5E5B571BE4D58D1947B484A5EE3DE9DBFDFCF984459435385EAAC1A54166E91061900DDA790527B187F751D2C2DDB0D');
CREATE TABLE registry_segment (
	id INTEGER NOT NULL, 
	model_id INTEGER NOT NULL, 
	"key" VARCHAR NOT NULL, 
	current INTEGER, 
	score FLOAT, 
	failed INTEGER, waiting INTEGER, refused INTEGER, 
	CONSTRAINT pk_registry_segment PRIMARY KEY (id), 
	CONSTRAINT uq_registry_segment_model_id_key UNIQUE (model_id, "key"), 
	CONSTRAINT fk_registry_segment_model_id FOREIGN KEY(model_id) REFERENCES registry_model (id)
);
INSERT INTO "registry_segment" VALUES(1,1,'AA,LAX',NULL,NULL,1,NULL,NULL);
INSERT INTO "registry_segment" VALUES(2,1,'UA,ORD',1,7.5,NULL,NULL,NULL);
INSERT INTO "registry_segment" VALUES(3,1,'pooled',1,7.5,NULL,NULL,NULL);
CREATE TABLE registry_tag (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	segment_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	CONSTRAINT pk_registry_tag PRIMARY KEY ("key", value, segment_id, number), 
	CONSTRAINT fk_registry_tag_segment_id FOREIGN KEY(segment_id) REFERENCES registry_segment (id)
)
 WITHOUT ROWID

;
INSERT INTO "registry_tag" VALUES('team','north',2,1);
INSERT INTO "registry_tag" VALUES('team','north',3,1);
CREATE TABLE registry_version (
	id INTEGER NOT NULL, 
	segment_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	run_id INTEGER NOT NULL, 
	pack_id INTEGER NOT NULL, 
	"offset" BIGINT NOT NULL, 
	length BIGINT NOT NULL, 
	extras_offset BIGINT NOT NULL, 
	extras_length BIGINT NOT NULL, 
	artifact BLOB NOT NULL, 
	extras BLOB, 
	identity BLOB NOT NULL, 
	data BLOB NOT NULL, 
	format VARCHAR(20) NOT NULL, 
	runtime VARCHAR(20) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	why TEXT NOT NULL, 
	rows BIGINT NOT NULL, 
	test_rows BIGINT NOT NULL, 
	score FLOAT, 
	metrics JSON NOT NULL, runtime_why TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_registry_version PRIMARY KEY (id), 
	CONSTRAINT uq_registry_version_segment_id_number UNIQUE (segment_id, number), 
	CONSTRAINT fk_registry_version_segment_id FOREIGN KEY(segment_id) REFERENCES registry_segment (id), 
	CONSTRAINT fk_registry_version_run_id FOREIGN KEY(run_id) REFERENCES registry_run (id), 
	CONSTRAINT fk_registry_version_pack_id FOREIGN KEY(pack_id) REFERENCES registry_pack (id)
);
INSERT INTO "registry_version" VALUES(1,3,1,1,1,64,10,0,0,X'07478AF3FFF6A6ACCFE57161E15221918930BBD281DD241DA2038C2EEFBE90D1',NULL,X'652319B148A16B6E4FFC53A1BC0384EB239EBC5D6F89E996A99ACFB3FFC40B1D',X'3A6EB0790F39AC87C94F3856B2DD2C5D110E6811602261A9A923D3BB23ADC8B7','linear','linear','own','',100,20,7.5,'{"mae":7.5,"rmse":15.0,"r2":0.5}','');
INSERT INTO "registry_version" VALUES(2,2,1,1,1,128,21,0,0,X'C0B529E0A73010807BC099CAE1B3DD3DE6D104F12489932A727DFCEBE83D9B2C',NULL,X'652319B148A16B6E4FFC53A1BC0384EB239EBC5D6F89E996A99ACFB3FFC40B1D',X'3A6EB0790F39AC87C94F3856B2DD2C5D110E6811602261A9A923D3BB23ADC8B7','linear','linear','own','',100,20,7.5,'{"mae":7.5,"rmse":15.0,"r2":0.5}','');
CREATE TABLE release_environment (
	name VARCHAR NOT NULL, 
	revision INTEGER NOT NULL, 
	created_at BIGINT NOT NULL, 
	CONSTRAINT pk_release_environment PRIMARY KEY (name)
);
INSERT INTO "release_environment" VALUES('dev',1,1795419823726956);
CREATE TABLE release_hold (
	environment VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	until BIGINT, 
	"by" TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	CONSTRAINT pk_release_hold PRIMARY KEY (environment, model), 
	CONSTRAINT fk_release_hold_environment FOREIGN KEY(environment) REFERENCES release_environment (name)
);
CREATE TABLE release_look (
	rollout_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	at BIGINT NOT NULL, 
	step INTEGER NOT NULL, 
	seen JSON NOT NULL, 
	CONSTRAINT pk_release_look PRIMARY KEY (rollout_id, number), 
	CONSTRAINT fk_release_look_rollout_id FOREIGN KEY(rollout_id) REFERENCES release_rollout (id)
);
CREATE TABLE release_move (
	id INTEGER NOT NULL, 
	environment VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	at BIGINT NOT NULL, 
	kind TEXT NOT NULL, 
	"before" INTEGER NOT NULL, 
	"after" INTEGER NOT NULL, 
	"by" TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	CONSTRAINT pk_release_move PRIMARY KEY (id), 
	CONSTRAINT fk_release_move_environment FOREIGN KEY(environment) REFERENCES release_environment (name)
);
CREATE TABLE release_pointer (
	environment VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	CONSTRAINT pk_release_pointer PRIMARY KEY (environment, model), 
	CONSTRAINT fk_release_pointer_environment FOREIGN KEY(environment) REFERENCES release_environment (name)
);
INSERT INTO "release_pointer" VALUES('dev','air-time',1);
CREATE TABLE release_release (
	environment VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	map BLOB NOT NULL, 
	signature BLOB NOT NULL, 
	created_at BIGINT NOT NULL, 
	"by" TEXT NOT NULL, 
	reason TEXT NOT NULL, withdrawn TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_release_release PRIMARY KEY (environment, model, number), 
	CONSTRAINT fk_release_release_environment FOREIGN KEY(environment) REFERENCES release_environment (name)
);
INSERT INTO "release_release" VALUES('dev','air-time',1,X'60BE9861750FACBFAD8758254A2F76C0CFE78D54459A3BC187D49B1401FCD8E8',X'6D206C39089933CC6E6C7E9C04EE9CF3C5E5B571BE4D58D1947B484A5EE3DE9DBFDFCF984459435385EAAC1A54166E91061900DDA790527B187F751D2C2DDB0D',1795419823730537,'','','');
CREATE TABLE release_rollout (
	id INTEGER NOT NULL, 
	environment VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	candidate INTEGER NOT NULL, 
	"before" INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	policy JSON NOT NULL, 
	step INTEGER NOT NULL, 
	ring BLOB, 
	began_at BIGINT NOT NULL, 
	step_at BIGINT NOT NULL, 
	ended_at BIGINT, 
	why TEXT NOT NULL, 
	"by" TEXT NOT NULL, 
	CONSTRAINT pk_release_rollout PRIMARY KEY (id), 
	CONSTRAINT fk_release_rollout_environment FOREIGN KEY(environment) REFERENCES release_environment (name)
);
CREATE TABLE release_shadow (
	id INTEGER NOT NULL, 
	environment VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	release INTEGER NOT NULL, 
	share FLOAT NOT NULL, 
	began_at BIGINT NOT NULL, 
	ended_at BIGINT, 
	"by" TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	seen JSON, 
	CONSTRAINT pk_release_shadow PRIMARY KEY (id), 
	CONSTRAINT fk_release_shadow_environment FOREIGN KEY(environment) REFERENCES release_environment (name)
);
CREATE TABLE store_revision (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT store_revision_pkc PRIMARY KEY (version_num)
);
INSERT INTO "store_revision" VALUES('0008');
CREATE INDEX ix_registry_segment_model_id_score_id ON registry_segment (model_id, score, id);
CREATE INDEX ix_registry_version_run_id_segment_id ON registry_version (run_id, segment_id);
CREATE INDEX ix_registry_tag_segment_id_number ON registry_tag (segment_id, number);
CREATE INDEX ix_registry_evidence_model_id_number_id ON registry_evidence (model_id, number, id);
CREATE INDEX ix_data_prediction_model_last_at ON data_prediction (model, last_at);
CREATE INDEX ix_release_move_environment_model ON release_move (environment, model, id);
CREATE INDEX ix_release_rollout_environment_model ON release_rollout (environment, model, id);
CREATE INDEX ix_release_shadow_environment_model ON release_shadow (environment, model, id);
COMMIT;
