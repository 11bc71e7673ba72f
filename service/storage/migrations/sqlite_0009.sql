CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0009');
CREATE TABLE benchmarks (
	id VARCHAR(32) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	created_ms BIGINT NOT NULL, 
	alive_ms BIGINT NOT NULL, 
	finished_ms BIGINT, 
	request TEXT NOT NULL, 
	detail TEXT, 
	bundle BLOB, machine_id VARCHAR(32), machine TEXT, progress TEXT, cancel_ms BIGINT, 
	PRIMARY KEY (id)
);
CREATE TABLE evaluations (
	id VARCHAR(16) NOT NULL, 
	finished_ms BIGINT NOT NULL, 
	summary TEXT NOT NULL, 
	document BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE gallery_contents (
	"key" BIGINT NOT NULL, 
	original BLOB NOT NULL, 
	thumbnail BLOB NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE gallery_embeddings (
	embedder VARCHAR(80) NOT NULL, 
	"key" BIGINT NOT NULL, 
	vector BLOB NOT NULL, 
	PRIMARY KEY (embedder, "key")
);
CREATE TABLE gallery_fields (
	"key" BIGINT NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	kind VARCHAR(1) NOT NULL, 
	text TEXT, 
	number DOUBLE, 
	PRIMARY KEY ("key", name)
);
CREATE TABLE gallery_images (
	"key" BIGINT NOT NULL, 
	id VARCHAR(255) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	perceptual_hash BIGINT NOT NULL, 
	format VARCHAR(8) NOT NULL, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	bytes BIGINT NOT NULL, 
	metadata TEXT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE gallery_state (
	name VARCHAR(16) NOT NULL, 
	embedder VARCHAR(80), 
	target VARCHAR(80), 
	sequence BIGINT NOT NULL, 
	revision BIGINT NOT NULL, 
	images BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "gallery_state" VALUES('gallery',NULL,NULL,0,0,0,0);
CREATE TABLE gallery_tombstones (
	sequence BIGINT NOT NULL, 
	"key" BIGINT NOT NULL, 
	PRIMARY KEY (sequence)
);
CREATE TABLE "latency_errors" (
	resolution_s INTEGER NOT NULL, 
	regime VARCHAR(16) NOT NULL, 
	start BIGINT NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	runtime VARCHAR(32) NOT NULL, 
	slug VARCHAR(64) NOT NULL, 
	instance VARCHAR(32) NOT NULL, 
	count BIGINT NOT NULL, 
	PRIMARY KEY (resolution_s, regime, start, model, version, runtime, slug, instance)
);
CREATE TABLE "latency_histograms" (
	resolution_s INTEGER NOT NULL, 
	regime VARCHAR(16) NOT NULL, 
	start BIGINT NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	runtime VARCHAR(32) NOT NULL, 
	stage VARCHAR(16) NOT NULL, 
	instance VARCHAR(32) NOT NULL, 
	count BIGINT NOT NULL, 
	sum_ns BIGINT NOT NULL, 
	max_ns BIGINT NOT NULL, 
	histogram BLOB NOT NULL, 
	p50_ns BIGINT, 
	p90_ns BIGINT, 
	p95_ns BIGINT, 
	p99_ns BIGINT, 
	PRIMARY KEY (resolution_s, regime, start, model, version, runtime, stage, instance)
);
CREATE TABLE latency_instances (
	instance VARCHAR(32) NOT NULL, 
	machine VARCHAR(200) NOT NULL, 
	since BIGINT NOT NULL, 
	PRIMARY KEY (instance)
);
CREATE TABLE latency_pooled (
	resolution_s INTEGER NOT NULL, 
	regime VARCHAR(16) NOT NULL, 
	start BIGINT NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	stage VARCHAR(16) NOT NULL, 
	count BIGINT NOT NULL, 
	p50_ns BIGINT NOT NULL, 
	p90_ns BIGINT NOT NULL, 
	p95_ns BIGINT NOT NULL, 
	p99_ns BIGINT NOT NULL, 
	PRIMARY KEY (resolution_s, regime, start, model, stage)
);
CREATE TABLE latency_progress (
	name VARCHAR(32) NOT NULL, 
	until BIGINT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE shared_models (
	kind VARCHAR(8) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	sequence BIGINT NOT NULL, 
	digest VARCHAR(64), 
	detail TEXT, 
	stored_ms BIGINT NOT NULL, 
	PRIMARY KEY (kind, name)
);
CREATE TABLE shared_model_files (
	kind VARCHAR(8) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	file VARCHAR(255) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	PRIMARY KEY (kind, name, file)
);
CREATE TABLE shared_model_chunks (
	sha256 VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	content BLOB NOT NULL, 
	PRIMARY KEY (sha256, number)
);
CREATE INDEX benchmarks_by_time ON benchmarks (created_ms);
CREATE UNIQUE INDEX gallery_images_by_id ON gallery_images (id);
CREATE INDEX gallery_images_by_sha256 ON gallery_images (sha256);
CREATE INDEX gallery_fields_by_text ON gallery_fields (name, kind, text, "key");
CREATE INDEX gallery_fields_by_number ON gallery_fields (name, number, "key");
CREATE INDEX evaluations_by_time ON evaluations (finished_ms);
CREATE UNIQUE INDEX shared_models_by_sequence ON shared_models (sequence);
CREATE INDEX shared_model_files_by_sha256 ON shared_model_files (sha256);
CREATE UNIQUE INDEX benchmarks_running ON benchmarks (machine_id) WHERE state = 'running';
