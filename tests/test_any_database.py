"""Whatever a schema holds survives: each case by itself, and all of them at once."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Fail, Run, Succeed, both_versions
from servers import Database, Server

import export_restore as er

# Each case: its schema, and the rows and calls that come after it.
CASES: dict[str, tuple[str, str]] = {
    "odd names": (
        """
        CREATE SCHEMA "Odd Schema";
        CREATE TABLE "Odd Schema"."Mixed Case" (
            "Select" serial PRIMARY KEY, "a.b" text, "q""uote" text, " " text,
            "é😀" text, "per%cent" text, "back\\slash" text, "new
line" text, "{brace}" text);
        CREATE TABLE "select" ("from" int PRIMARY KEY, "where" text);
        CREATE TABLE "dot.ted" (a int);
        CREATE SCHEMA dot;
        CREATE TABLE dot.ted (a int);
        CREATE TABLE "таблица" ("колонка" text UNIQUE NOT NULL);
        CREATE TABLE twin (a int);
        CREATE TABLE "Twin" (a int);
        CREATE TABLE "TWIN" (a int);
        CREATE TABLE "../up" (a int);
        CREATE TABLE "com1" ("NULL" int, "\\." text);
        CREATE TABLE """
        + "x" * 63
        + """ (a int);
        CREATE TABLE " " (" " int REFERENCES "select" ("from"));
        """,
        """
        INSERT INTO "Odd Schema"."Mixed Case" VALUES (DEFAULT, '1', '2', '3', '4', '5');
        INSERT INTO "select" VALUES (1, 'x');
        INSERT INTO "dot.ted" VALUES (1); INSERT INTO dot.ted VALUES (2);
        INSERT INTO "таблица" VALUES ('б'), ('а');
        INSERT INTO twin VALUES (1); INSERT INTO "Twin" VALUES (2);
        INSERT INTO "TWIN" VALUES (3); INSERT INTO "../up" VALUES (4);
        INSERT INTO com1 VALUES (1, '\\.'), (NULL, NULL);
        INSERT INTO """
        + "x" * 63
        + """ VALUES (5); INSERT INTO " " VALUES (1), (NULL);
        """,
    ),
    "keys of every kind": (
        """
        CREATE TABLE no_key (a int, b text);
        CREATE TABLE two_keys (a text, b int, c text, PRIMARY KEY (b, a));
        CREATE TABLE unique_only (a text NOT NULL, b int UNIQUE, UNIQUE (a));
        CREATE UNIQUE INDEX partial ON no_key (a) WHERE a > 100;
        CREATE TABLE late (a int UNIQUE DEFERRABLE INITIALLY DEFERRED, b int);
        CREATE TABLE nothing ();
        CREATE TABLE lonely (a text);
        CREATE TABLE covering (a int, b int, PRIMARY KEY (a) INCLUDE (b));
        """,
        """
        INSERT INTO no_key VALUES (2, 'x'), (1, NULL), (2, 'x'), (NULL, '');
        INSERT INTO two_keys VALUES ('b', 1, NULL), ('B', 1, ''), ('ä', 1, 'x'), ('a', 0, 'y');
        INSERT INTO unique_only VALUES ('z', NULL), ('Y', 1), ('', 2);
        INSERT INTO late VALUES (1, 1), (2, 2);
        INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
        INSERT INTO lonely VALUES (NULL), (''), ('\\.'), (NULL), ('NULL');
        INSERT INTO covering VALUES (2, 1), (1, 2);
        """,
    ),
    "indexes of every kind": (
        """
        CREATE TABLE ix (id int PRIMARY KEY, a int NOT NULL, b text, r int4range,
            CONSTRAINT "Odd unique" UNIQUE (a, b) DEFERRABLE INITIALLY DEFERRED,
            CONSTRAINT apart EXCLUDE USING gist (r WITH &&) WHERE (a > 0),
            UNIQUE NULLS NOT DISTINCT (b, r), UNIQUE (a) INCLUDE (b));
        CREATE INDEX "Odd index" ON ix (b DESC NULLS LAST, a) WHERE a < 50;
        CREATE INDEX ix_lower ON ix (lower(b), a) WITH (fillfactor = 60);
        ALTER INDEX ix_lower ALTER COLUMN 1 SET STATISTICS 500;
        CREATE UNIQUE INDEX ix_identity ON ix (a);
        ALTER TABLE ix REPLICA IDENTITY USING INDEX ix_identity;
        CREATE INDEX ix_cluster ON ix (b);
        ALTER TABLE ix CLUSTER ON ix_cluster;
        COMMENT ON INDEX ix_lower IS 'it''s a comment';
        COMMENT ON CONSTRAINT "Odd unique" ON ix IS 'and another';
        CREATE INDEX ix_hash ON ix USING hash (b);
        CREATE INDEX ix_brin ON ix USING brin (id) WITH (pages_per_range = 4);
        CREATE TABLE ix_grouped (id int PRIMARY KEY, a int);
        CREATE VIEW ix_view AS SELECT id, a FROM ix_grouped GROUP BY id;
        CREATE TABLE ix_filled (id int PRIMARY KEY WITH (fillfactor = 50));
        CREATE TABLE ix_rule (id int CONSTRAINT ix_rule_key UNIQUE);
        CREATE RULE again AS ON UPDATE TO ix_rule DO INSTEAD
            INSERT INTO ix_rule VALUES (1) ON CONFLICT ON CONSTRAINT ix_rule_key DO NOTHING;
        CREATE TABLE ix_part (id int, a int, b text, CONSTRAINT top_key PRIMARY KEY (id, a))
            PARTITION BY LIST (a);
        CREATE TABLE ix_part_1 (id int NOT NULL, a int NOT NULL, b text,
            CONSTRAINT own_name PRIMARY KEY (id, a), CONSTRAINT alone UNIQUE (b));
        ALTER TABLE ix_part ATTACH PARTITION ix_part_1 FOR VALUES IN (1);
        CREATE TABLE ix_part_2 PARTITION OF ix_part FOR VALUES IN (2) PARTITION BY RANGE (id);
        CREATE TABLE ix_part_2a PARTITION OF ix_part_2 FOR VALUES FROM (0) TO (100);
        CREATE INDEX own_index ON ix_part_1 (b, a);
        CREATE INDEX top_index ON ix_part (b, a);
        COMMENT ON INDEX own_index IS 'attached';
        CREATE INDEX top_lower ON ix_part (lower(b));
        ALTER INDEX top_lower ALTER COLUMN 1 SET STATISTICS 33;
        ALTER INDEX ix_part_1_lower_idx ALTER COLUMN 1 SET STATISTICS 44;
        ALTER INDEX top_lower DEPENDS ON EXTENSION plpgsql;
        CREATE INDEX top_only ON ONLY ix_part (a);
        CREATE INDEX in_one ON ix_part_1 (a);
        ALTER INDEX top_only ATTACH PARTITION in_one;
        CREATE TABLE ix_state (id int, invalid boolean);
        CREATE INDEX ix_state_invalid_idx ON ix_state (id) WHERE invalid;
        COMMENT ON INDEX ix_state_invalid_idx IS 'on those that are invalid';
        CREATE TABLE ix_ref (id int, a int, FOREIGN KEY (id, a) REFERENCES ix_part,
            k int REFERENCES ix (a));
        """,
        """
        INSERT INTO ix SELECT i, i, 'B' || i, int4range(i * 10, i * 10 + 5)
            FROM generate_series(1, 30) AS i;
        INSERT INTO ix_grouped VALUES (1, 2), (2, 2);
        INSERT INTO ix_filled VALUES (2), (1); INSERT INTO ix_rule VALUES (3);
        INSERT INTO ix_part SELECT i, 1 + i % 2, 'x' || i FROM generate_series(1, 40) AS i;
        INSERT INTO ix_ref VALUES (2, 1, 5), (3, 2, 6), (NULL, NULL, NULL);
        """,
    ),
    "foreign keys of every kind": (
        """
        CREATE TABLE fk_a (id int PRIMARY KEY, parent int REFERENCES fk_a ON DELETE CASCADE,
                           x int, y int, UNIQUE (x, y));
        CREATE TABLE fk_b (id int PRIMARY KEY,
            a int REFERENCES fk_a ON UPDATE CASCADE ON DELETE SET DEFAULT
                DEFERRABLE INITIALLY DEFERRED,
            x int, y int, FOREIGN KEY (x, y) REFERENCES fk_a (x, y) MATCH FULL);
        ALTER TABLE fk_a ADD COLUMN b int CONSTRAINT "Cy cle" REFERENCES fk_b DEFERRABLE;
        CREATE TABLE fk_c (a int);
        ALTER TABLE fk_c ADD CONSTRAINT loose FOREIGN KEY (a) REFERENCES fk_a NOT VALID;
        COMMENT ON CONSTRAINT loose ON fk_c IS 'never checked: 100% {}';
        CREATE TABLE lax_check (a int);
        ALTER TABLE lax_check ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        CREATE TABLE lax_part (a int) PARTITION BY LIST (a);
        CREATE TABLE lax_part_old PARTITION OF lax_part FOR VALUES IN (-1);
        ALTER TABLE lax_part ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        CREATE TABLE lax_part_new PARTITION OF lax_part FOR VALUES IN (1);
        """,
        """
        INSERT INTO lax_part VALUES (1);
        ALTER TABLE lax_check DROP CONSTRAINT positive;
        INSERT INTO lax_check VALUES (-1), (1);
        ALTER TABLE lax_check ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
        INSERT INTO fk_a VALUES (1, 2, 1, 1), (2, 2, NULL, NULL);
        INSERT INTO fk_b VALUES (1, 1, 1, 1), (2, NULL, NULL, NULL);
        UPDATE fk_a SET b = 3 - id;
        ALTER TABLE fk_c DROP CONSTRAINT loose;
        INSERT INTO fk_c VALUES (1), (99);
        ALTER TABLE fk_c ADD CONSTRAINT loose FOREIGN KEY (a) REFERENCES fk_a NOT VALID;
        COMMENT ON CONSTRAINT loose ON fk_c IS 'never checked: 100% {}';
        """,
    ),
    "generated columns": (
        """
        CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
        CREATE FUNCTION four_times(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
            AS 'BEGIN RETURN twice(twice($1)); END';
        CREATE TABLE made (
            a int, b int GENERATED ALWAYS AS (four_times(a)) STORED, c text,
            CHECK (four_times(a) < 1000));
        CREATE TABLE all_made (a int GENERATED ALWAYS AS (7) STORED);
        CREATE INDEX made_idx ON made (four_times(a));
        """,
        """
        INSERT INTO made (a, c) VALUES (1, 'x'), (NULL, NULL);
        INSERT INTO all_made DEFAULT VALUES; INSERT INTO all_made DEFAULT VALUES;
        """,
    ),
    "sequences": (
        """
        CREATE TABLE s_always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
        CREATE TABLE s_default (
            id bigint GENERATED BY DEFAULT AS IDENTITY
                (START 100 INCREMENT 10 MINVALUE 50 MAXVALUE 5000) PRIMARY KEY, a int);
        CREATE TABLE s_serial (id smallserial PRIMARY KEY, a int);
        ALTER SEQUENCE s_serial_id_seq RENAME TO "Renamed Seq";
        CREATE SEQUENCE shared;
        CREATE TABLE s_one (id int DEFAULT nextval('shared') PRIMARY KEY);
        CREATE TABLE s_two (id int DEFAULT nextval('shared') PRIMARY KEY);
        CREATE SEQUENCE free AS smallint;
        CREATE SEQUENCE never_called START 5;
        CREATE SEQUENCE set_not_called;
        CREATE SEQUENCE down INCREMENT -3 MAXVALUE 100 START 100;
        CREATE TABLE s_down (id int DEFAULT nextval('down') PRIMARY KEY);
        CREATE SEQUENCE round_and_round MAXVALUE 3 CYCLE CACHE 1;
        CREATE TABLE s_cycle (id int DEFAULT nextval('round_and_round'));
        CREATE SEQUENCE used_up MAXVALUE 2;
        CREATE TABLE s_empty (id serial PRIMARY KEY);
        CREATE TABLE s_emptied (id serial PRIMARY KEY);
        CREATE DOMAIN key_number AS int;
        CREATE TABLE s_domain (id key_number DEFAULT nextval('free'));
        CREATE TABLE s_text (id text DEFAULT 'INV-' || nextval('free'));
        """,
        """
        INSERT INTO s_always SELECT FROM generate_series(1, 3);
        INSERT INTO s_default (a) VALUES (1), (2);
        INSERT INTO s_serial (a) VALUES (1), (2);
        INSERT INTO s_one DEFAULT VALUES; INSERT INTO s_two DEFAULT VALUES;
        INSERT INTO s_text DEFAULT VALUES; INSERT INTO s_domain DEFAULT VALUES;
        SELECT setval('set_not_called', 42, false);
        INSERT INTO s_down DEFAULT VALUES; INSERT INTO s_down DEFAULT VALUES;
        INSERT INTO s_cycle SELECT FROM generate_series(1, 4);
        SELECT nextval('used_up'), nextval('used_up');
        INSERT INTO s_emptied DEFAULT VALUES; DELETE FROM s_emptied;
        """,
    ),
    "partitions": (
        """
        CREATE TABLE part (id int, day date, note text, PRIMARY KEY (id, day))
            PARTITION BY RANGE (day);
        CREATE TABLE part_old PARTITION OF part FOR VALUES FROM (MINVALUE) TO ('2025-01-01');
        CREATE TABLE part_new PARTITION OF part FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
            PARTITION BY LIST (id);
        CREATE TABLE part_new_x PARTITION OF part_new FOR VALUES IN (2, 4);
        CREATE TABLE part_new_rest PARTITION OF part_new DEFAULT;
        CREATE TABLE part_rest (note text, gone int, day date NOT NULL, id int NOT NULL);
        ALTER TABLE part_rest DROP COLUMN gone;
        ALTER TABLE part ATTACH PARTITION part_rest DEFAULT;
        CREATE TABLE part_hash (a text, b int) PARTITION BY HASH (a);
        CREATE TABLE part_hash_0 PARTITION OF part_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE part_hash_1 PARTITION OF part_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE part_child (id int, day date,
            FOREIGN KEY (id, day) REFERENCES part) PARTITION BY LIST (id);
        CREATE TABLE part_child_1 PARTITION OF part_child FOR VALUES IN (1);
        CREATE TABLE part_child_2 PARTITION OF part_child FOR VALUES IN (2);
        CREATE TABLE leaf_target (id int PRIMARY KEY);
        ALTER TABLE part_child_2 ADD FOREIGN KEY (id) REFERENCES leaf_target;
        CREATE TABLE part_empty (a int) PARTITION BY RANGE (a);
        CREATE FUNCTION part_trigger() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN RAISE EXCEPTION $$a trigger fired$$; END';
        CREATE TRIGGER guard BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION part_trigger();
        ALTER TABLE part_new DISABLE TRIGGER guard;
        ALTER TABLE part_old ENABLE ALWAYS TRIGGER guard;
        CREATE TRIGGER own BEFORE INSERT ON part_hash_0
            FOR EACH ROW EXECUTE FUNCTION part_trigger();
        """,
        """
        ALTER TABLE part DISABLE TRIGGER USER; ALTER TABLE part_hash_0 DISABLE TRIGGER USER;
        INSERT INTO part VALUES (1, '2024-05-05', 'o'), (2, '2025-05-05', 'x'),
            (3, '2025-05-05', NULL), (4, '2025-05-06', 'r'), (5, '2030-01-01', 'far');
        INSERT INTO part_hash SELECT n::text, n FROM generate_series(1, 20) AS n;
        INSERT INTO leaf_target VALUES (2);
        INSERT INTO part_child VALUES (1, '2024-05-05'), (2, '2025-05-05');
        ALTER TABLE part ENABLE TRIGGER USER; ALTER TABLE part_hash_0 ENABLE TRIGGER USER;
        ALTER TABLE part_new DISABLE TRIGGER guard;
        ALTER TABLE part_old ENABLE ALWAYS TRIGGER guard;
        """,
    ),
    "inheritance": (
        """
        CREATE TABLE inh (id serial PRIMARY KEY, a text);
        CREATE TABLE inh_child (b int, UNIQUE (id)) INHERITS (inh);
        CREATE TABLE inh_other (c int) INHERITS (inh);
        """,
        """
        INSERT INTO inh (a) VALUES ('p1'), ('p2'); INSERT INTO inh_child (a) VALUES ('c');
        INSERT INTO inh_other (a, c) VALUES ('o', 1);
        """,
    ),
    "types": (
        """
        CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s, "fine"', '');
        CREATE TYPE pair AS (a int, "B c" text);
        CREATE TYPE no_mood AS ENUM ();
        CREATE DOMAIN positive AS numeric(10, 3) CHECK (VALUE > 0) DEFAULT 1;
        CREATE DOMAIN pairs AS pair[];
        CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
        CREATE TABLE types (
            a mood PRIMARY KEY, b pair, c positive, d pairs, e float_range, f int4multirange,
            g mood[], h tsvector, i money, j bit(3), k bit varying, l cidr, m inet,
            n macaddr, o point, p polygon, q jsonb, r uuid, s timetz, t "char", u name,
            v char(5), w int[][], x tsquery, y tstzrange, z oid, aa bytea, bb interval,
            cc regclass, dd pg_lsn, ee numeric, ff float4, gg jsonpath, hh varchar(3));
        CREATE UNLOGGED TABLE unlogged (a int);
        CREATE TABLE rooms (during tsrange, EXCLUDE USING gist (during WITH &&));
        CREATE TABLE shrunk (a int, gone text, b int);
        ALTER TABLE shrunk DROP COLUMN gone;
        CREATE DOMAIN lax AS int CONSTRAINT upto CHECK (VALUE < 9);
        ALTER DOMAIN lax ADD CONSTRAINT "Positive" CHECK (VALUE > 0) NOT VALID;
        COMMENT ON CONSTRAINT "Positive" ON DOMAIN lax IS 'never checked: 100% {}';
        CREATE TABLE of_domain (a lax, b lax[]);
        """,
        """
        INSERT INTO types VALUES ('it''s, "fine"', '(1,"x,""y")', 1.5, ARRAY[(1, NULL)::pair],
            '[1.5,Infinity)', '{[1,3),[5,)}', '{ok,NULL,""}', 'a:1A b', '-1234.56', '101',
            '', '10/8', '10.1.2.3/24', '08:00:2b:01:02:03', '(1,NaN)', '((0,0),(1,1),(1,0))',
            '{"a": [1, 1.50, "\\u20ac"]}', gen_random_uuid(), '12:00+05:30', 'x', 'n', 'ab',
            '[2:3][1:1]={{1},{2}}', 'a & b:*', '[2020-01-01,infinity]', 4000000000,
            '\\x0001fe', '1 year -2 days', 'pg_class', '16/B374D848', 'NaN', '-Infinity',
            '$.a', 'é');
        INSERT INTO types (a) VALUES ('sad'), ('');
        INSERT INTO unlogged VALUES (1);
        INSERT INTO rooms VALUES ('[2020-01-01,2020-01-02)'), (NULL), ('empty');
        INSERT INTO shrunk VALUES (1, 2);
        ALTER DOMAIN lax DROP CONSTRAINT "Positive";
        INSERT INTO of_domain VALUES (-1, '{-2,3}'), (1, NULL);
        ALTER DOMAIN lax ADD CONSTRAINT "Positive" CHECK (VALUE > 0) NOT VALID;
        COMMENT ON CONSTRAINT "Positive" ON DOMAIN lax IS 'never checked: 100% {}';
        """,
    ),
    "triggers, rules and policies": (
        """
        CREATE TABLE acted (id int PRIMARY KEY, a text);
        CREATE TABLE noted (a text);
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.a = upper(NEW.a); RETURN NEW; END $$;
        CREATE TRIGGER t_enabled BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TRIGGER t_always BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TRIGGER t_replica BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE TRIGGER t_disabled BEFORE INSERT ON acted FOR EACH ROW EXECUTE FUNCTION shout();
        CREATE CONSTRAINT TRIGGER t_late AFTER INSERT ON acted DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION shout();
        ALTER TABLE acted ENABLE ALWAYS TRIGGER t_always;
        ALTER TABLE acted ENABLE REPLICA TRIGGER t_replica;
        ALTER TABLE acted DISABLE TRIGGER t_disabled;
        CREATE RULE r AS ON INSERT TO acted DO ALSO INSERT INTO noted VALUES (NEW.a);
        CREATE TABLE walled (id int PRIMARY KEY, owner name);
        ALTER TABLE walled ENABLE ROW LEVEL SECURITY;
        CREATE POLICY mine ON walled USING (owner = current_user);
        CREATE TABLE fenced (id int PRIMARY KEY);
        ALTER TABLE fenced ENABLE ROW LEVEL SECURITY;
        ALTER TABLE fenced FORCE ROW LEVEL SECURITY;
        """,
        """
        ALTER TABLE acted DISABLE TRIGGER USER;
        INSERT INTO acted VALUES (1, 'quiet'); TRUNCATE noted;
        ALTER TABLE acted ENABLE TRIGGER USER;
        ALTER TABLE acted ENABLE ALWAYS TRIGGER t_always;
        ALTER TABLE acted ENABLE REPLICA TRIGGER t_replica;
        ALTER TABLE acted DISABLE TRIGGER t_disabled;
        INSERT INTO walled VALUES (1, 'nobody'), (2, 'somebody');
        INSERT INTO fenced VALUES (1);
        """,
    ),
    "views": (
        """
        CREATE TABLE fact (a int PRIMARY KEY);
        CREATE FUNCTION total() RETURNS bigint LANGUAGE sql
            SET search_path = public AS 'SELECT sum(a) FROM fact';
        CREATE MATERIALIZED VIEW z_first AS SELECT a, total() FROM fact;
        CREATE VIEW between_them AS SELECT * FROM z_first;
        CREATE MATERIALIZED VIEW a_second AS SELECT count(*) FROM between_them;
        CREATE UNIQUE INDEX ON a_second (count);
        CREATE MATERIALIZED VIEW empty AS SELECT * FROM fact WITH NO DATA;
        CREATE MATERIALIZED VIEW emptied AS SELECT * FROM fact;
        CREATE STATISTICS stats (ndistinct) ON a, total FROM z_first;
        """,
        """
        INSERT INTO fact VALUES (1), (2);
        REFRESH MATERIALIZED VIEW z_first; REFRESH MATERIALIZED VIEW a_second;
        REFRESH MATERIALIZED VIEW emptied WITH NO DATA;
        """,
    ),
    "routines": (
        """
        CREATE FUNCTION add_up(a int, b int) RETURNS int LANGUAGE sql
            BEGIN ATOMIC SELECT a; SELECT CASE WHEN a > b THEN a ELSE b END; END;
        CREATE FUNCTION quoting() RETURNS text LANGUAGE plpgsql AS $body$
            BEGIN /* ' */ RETURN $x$ ; -- not a comment $x$; END; $body$;
        CREATE PROCEDURE work(INOUT a int) LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
        DO $do$ BEGIN EXECUTE 'CREATE TABLE hidden (a int)'; END $do$;
        CREATE AGGREGATE last_one (int) (sfunc = add_up, stype = int);
        CREATE SCHEMA made_whole
            CREATE TABLE inner_t (a int)
            CREATE VIEW inner_v AS SELECT a FROM inner_t;
        """,
        "INSERT INTO hidden VALUES (1); INSERT INTO made_whole.inner_t VALUES (1);",
    ),
}
ONLY_18 = {
    "virtual columns": (
        "CREATE TABLE virtual (a int, b int GENERATED ALWAYS AS (a + 1) VIRTUAL);"
        "CREATE TABLE lax (a int REFERENCES virtual_target NOT ENFORCED);",
        "INSERT INTO virtual VALUES (1), (NULL); INSERT INTO lax VALUES (7);",
    ),
}
CONTRIB = {
    "extensions": (
        """
        CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
        CREATE EXTENSION btree_gist;
        CREATE TABLE extended (a citext PRIMARY KEY, b hstore, c ltree, d xml, e xml[]);
        CREATE TABLE booked (room int, during tsrange,
            EXCLUDE USING gist (room WITH =, during WITH &&));
        """,
        """
        INSERT INTO extended VALUES ('b', 'a=>1, "x y"=>NULL', 'Top.Science', '<a>&amp;</a>',
            '{<b/>,"plain text"}'), ('A', NULL, NULL, NULL, NULL);
        INSERT INTO booked VALUES (1, '[2020-01-01,2020-02-01)');
        """,
    ),
}
ALL_AT_ONCE = (
    "\n".join(schema for schema, _ in CASES.values()),
    "\n".join(rows for _, rows in CASES.values()),
)


def round_trip(
    source: Database,
    target: Database,
    work: Path,
    succeed: Succeed,
    case: tuple[str, str],
) -> None:
    """Make the case, take it from source to target, and let pg_dump judge."""
    schema, rows = case
    (work / "schema.sql").write_text(schema, encoding="utf-8")
    source.execute(schema)
    source.execute(rows)
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    compare(source, target)
    succeed("verify", "--env-file", target.env_file(work))


def compare(source: Database, target: Database) -> None:
    schemas = [target.schema(), source.schema()]
    if source.server.version != target.server.version:
        # 18 gives NOT NULL constraints names, which 16 does not keep.
        schemas = [
            re.sub(r"CONSTRAINT \w+ NOT NULL", "NOT NULL", each) for each in schemas
        ]
    assert schemas[0] == schemas[1]
    assert target.rows() == source.rows()
    assert target.sequences() == source.sequences()
    populated = (
        "SELECT relname, relispopulated FROM pg_class WHERE relkind = 'm' ORDER BY 1"
    )
    assert target.fetch(populated) == source.fetch(populated)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_case(
    source: Database,
    target: Database,
    work: Path,
    succeed: Succeed,
    case: tuple[str, str],
) -> None:
    round_trip(source, target, work, succeed, case)


def test_a_name_that_begins_like_a_file_of_a_spreadsheet(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    schema = 'CREATE TABLE marked ("\ufeffa" int, b int)'
    rows = "INSERT INTO marked VALUES (1, 2)"
    round_trip(source, target, work, succeed, (schema, rows))


@pytest.fixture
def other(server: Server, server16: Server, server18: Server) -> Iterator[Database]:
    """An empty database of the other version."""
    with (server16 if server is server18 else server18).database() as database:
        yield database


@both_versions
def test_everything_between_versions(
    source: Database, other: Database, work: Path, succeed: Succeed
) -> None:
    """All cases in one database, from 16 to 18 and from 18 to 16."""
    round_trip(source, other, work, succeed, ALL_AT_ONCE)


@both_versions
def test_everything_is_stable(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """An export of what was restored has the same bytes in every CSV."""
    round_trip(source, target, work, succeed, ALL_AT_ONCE)
    succeed("export", "--env-file", target.env_file(work), "--dir", "again")
    names = sorted(path.name for path in (work / "exports").iterdir())
    assert names == sorted(path.name for path in (work / "again").iterdir())
    for name in names:
        if name.endswith(".csv"):
            one, two = (work / folder / name for folder in ("exports", "again"))
            assert one.read_bytes() == two.read_bytes(), name


@both_versions
def test_everything_by_a_schema_of_pg_dump(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    for part in ALL_AT_ONCE:
        source.execute(part)
    (work / "schema.sql").write_text(source.pg_dump(), encoding="utf-8")
    succeed("export", "--env-file", source.env_file(work))
    succeed("restore", "--env-file", target.env_file(work))
    compare(source, target)


VERSION_PAIRS = tuple(itertools.combinations_with_replacement((16, 17, 18), 2))


@pytest.mark.parametrize("pair", VERSION_PAIRS, ids=str)
def test_everything_there_and_back(
    pair: tuple[int, int], request: pytest.FixtureRequest, work: Path, run: Run
) -> None:
    """By our own schema, to the same version or a newer one and back: no false note."""

    def quietly(*argv: object) -> None:
        result = run(*argv)
        notes = re.findall(
            r"^(?:note|skipped|dropped|-|\+).*", result.err, re.MULTILINE
        )
        assert (result.status, notes) == (0, []), result.err

    with contextlib.ExitStack() as stack:
        one, other = (
            stack.enter_context(request.getfixturevalue(f"server{version}").database())
            for version in pair
        )
        for part in ALL_AT_ONCE:
            one.execute(part)
        before, rows = one.schema(), one.rows()
        for source, target in ((one, other), (other, one)):
            env = source.env_file(work)
            quietly("schema", "--force", "--env-file", env)
            quietly("export", "--env-file", env)
            quietly("restore", "--yes", "--env-file", target.env_file(work))
            quietly("verify", "--env-file", target.env_file(work))
            compare(source, target)
        if pair[0] == pair[1]:
            assert one.schema() == before
        assert one.rows() == rows


@both_versions
def test_everything_without_superuser(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    """Who owns a database restores into it, forced policies or not."""
    server = source.server
    for part in ALL_AT_ONCE:
        source.execute(part)
    (work / "schema.sql").write_text(ALL_AT_ONCE[0], encoding="utf-8")
    succeed("export", "--env-file", source.env_file(work))
    server.execute("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN")
    server.execute(f"ALTER DATABASE {target.name} OWNER TO plain")
    target.execute("GRANT ALL ON SCHEMA public TO plain")
    try:
        succeed("restore", "--env-file", target.env_file(work, DB_USER="plain"))
        compare(source, target)
    finally:
        server.execute(f"ALTER DATABASE {target.name} OWNER TO postgres")
        target.execute("DROP OWNED BY plain CASCADE; DROP ROLE plain")


def test_what_only_18_has(
    source: Database, target: Database, work: Path, succeed: Succeed
) -> None:
    schema, rows = ONLY_18["virtual columns"]
    target_table = "CREATE TABLE virtual_target (a int PRIMARY KEY);"
    round_trip(source, target, work, succeed, (target_table + schema, rows))


@pytest.mark.parametrize("case", CONTRIB.values(), ids=CONTRIB.keys())
def test_contrib_and_xml(
    server17: Server, work: Path, succeed: Succeed, case: tuple[str, str]
) -> None:
    with server17.database() as source, server17.database() as target:
        round_trip(source, target, work, succeed, case)


@pytest.mark.parametrize(
    "options",
    [
        "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    ],
)
def test_other_encodings(
    server: Server, work: Path, succeed: Succeed, options: str
) -> None:
    """To a UTF-8 database and back."""
    schema = 'CREATE TABLE "tëst" (a text PRIMARY KEY, "ñ" text)'
    (work / "schema.sql").write_text(schema, encoding="utf-8")
    with contextlib.ExitStack() as stack:
        first, last = (stack.enter_context(server.database(options)) for _ in "12")
        middle = stack.enter_context(server.database())
        with contextlib.closing(first.connect()) as db, db.cursor() as cursor:
            db.set_client_encoding("UTF8")
            cursor.execute(schema)
            cursor.execute("INSERT INTO \"tëst\" VALUES ('é', 'ü, \"ß\"'), ('a', NULL)")
        succeed("export", "--env-file", first.env_file(work))
        expected = 'a,ñ\na,\né,"ü, ""ß"""\n'
        assert (work / "exports/tëst.csv").read_text(encoding="utf-8") == expected
        succeed("restore", "--env-file", middle.env_file(work))
        succeed("export", "--env-file", middle.env_file(work))
        succeed("restore", "--env-file", last.env_file(work))
        succeed("export", "--env-file", last.env_file(work))
        assert (work / "exports/tëst.csv").read_text(encoding="utf-8") == expected


def test_bytes_in_no_encoding(server: Server, work: Path, fail: Fail) -> None:
    """A CSV is UTF-8 or it is not written."""
    options = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    (work / "schema.sql").write_text("CREATE TABLE t (a text)")
    with server.database(options) as database:
        database.execute("CREATE TABLE t (a text); INSERT INTO t VALUES (E'\\xff')")
        message = fail(1, "export", "--env-file", database.env_file(work))
        assert 'table t: invalid byte sequence for encoding "UTF8": 0xff' in message
        assert not list((work / "exports").iterdir())


def test_text_that_the_target_cannot_hold(
    server: Server,
    source: Database,
    work: Path,
    succeed: Succeed,
    fail: Fail,
) -> None:
    schema = "CREATE TABLE t (a text)"
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO t VALUES ('fine'), ('👍')")
    succeed("export", "--env-file", source.env_file(work))
    options = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    with server.database(options) as target:
        message = fail(3, "restore", "--env-file", target.env_file(work))
        assert "t.csv, line 3" in message
        assert "LATIN1" in message


def test_text_keys_are_ordered_alike_everywhere(
    source: Database, work: Path, succeed: Succeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the database's collation: these servers have none but C to try."""
    queries: list[str] = []
    terms = er.order_terms

    def spy(table: er.Table) -> object:
        with contextlib.closing(source.connect()) as db:
            queries.append(terms(table).as_string(db))
        return terms(table)

    monkeypatch.setattr(er, "order_terms", spy)
    schema = "CREATE TABLE t (a text, b int, c varchar(9), PRIMARY KEY (c, b, a))"
    (work / "schema.sql").write_text(schema)
    source.execute(schema + "; INSERT INTO t VALUES ('b', 1, ''), ('A', 1, '')")
    succeed("export", "--env-file", source.env_file(work))
    assert queries == ['"c" COLLATE "C", "b", "a" COLLATE "C"']
    assert (work / "exports/t.csv").read_text() == 'a,b,c\nA,1,""\nb,1,""\n'
