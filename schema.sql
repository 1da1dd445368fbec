-- The schema script of a small sales team's database. A restore replays this file, so it
-- starts by removing what it creates.

DROP TABLE IF EXISTS feedback CASCADE;
DROP TABLE IF EXISTS leads CASCADE;
DROP TABLE IF EXISTS agents CASCADE;
DROP TYPE IF EXISTS lead_status CASCADE;

CREATE TYPE lead_status AS ENUM (
    'new', 'contacted', 'qualified', 'proposal', 'won', 'lost'
);

-- The people who sell.
CREATE TABLE agents (
    id              serial PRIMARY KEY,
    full_name       text NOT NULL CHECK (full_name <> ''),
    email           text NOT NULL UNIQUE,
    phone           text,
    region          text NOT NULL,
    commission_rate numeric(5, 4) NOT NULL DEFAULT 0.0500
                    CHECK (commission_rate BETWEEN 0 AND 1),
    active          boolean NOT NULL DEFAULT true,
    hired_on        date NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);

-- The people who may buy. A lead that nobody has taken yet has no agent.
CREATE TABLE leads (
    id              serial PRIMARY KEY,
    agent_id        integer REFERENCES agents (id) ON DELETE SET NULL,
    full_name       text NOT NULL,
    company         text,
    email           text NOT NULL UNIQUE,
    phone           text NOT NULL DEFAULT '',
    status          lead_status NOT NULL DEFAULT 'new',
    estimated_value numeric(12, 2) CHECK (estimated_value >= 0),
    notes           text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    closed_at       timestamptz,
    CHECK (closed_at >= created_at),
    CHECK ((closed_at IS NOT NULL) = (status IN ('won', 'lost')))
);

CREATE INDEX leads_agent_id_idx ON leads (agent_id);
CREATE INDEX leads_open_idx ON leads (created_at) WHERE closed_at IS NULL;

-- What a lead said after a call or a meeting.
CREATE TABLE feedback (
    id              serial PRIMARY KEY,
    lead_id         integer NOT NULL REFERENCES leads (id) ON DELETE CASCADE,
    rating          smallint NOT NULL CHECK (rating BETWEEN 1 AND 5),
    comment         text,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX feedback_lead_id_idx ON feedback (lead_id);
