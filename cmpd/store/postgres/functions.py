"""What a commit of `issued` is in PL/pgSQL, so that it is one statement: conditions, code, budget, certificates.

Conditions are judged as `cmpd.store.conditions` judges them; the contract suite holds both to the same.
"""

UNMET = """
CREATE FUNCTION cmpd_unmet_1(
    of_profile text, of_seat text, spki bytea, new_key boolean, alone boolean, per_seat bigint, per_day bigint,
    updates bytea, others bigint, mates bigint, spent_too bigint, now bigint,
    OUT condition text, OUT in_the_way bytea, OUT until bigint
) LANGUAGE plpgsql AS $$
DECLARE
    number bigint;
    orders bigint;
    first_end bigint;
    most bigint;
BEGIN
    IF spki IS NOT NULL THEN
        SELECT CASE WHEN c.status = 'revoked' THEN 'compromised_key' ELSE 'new_key' END, c.serial,
               CASE WHEN c.status <> 'revoked' THEN c.not_after END
          INTO condition, in_the_way, until
          FROM certificate c
         WHERE substr(c.spki_sha256, 1, 8) = substr(spki, 1, 8) AND c.spki_sha256 = spki
           AND (c.status = 'revoked' AND c.reason = 1 OR new_key AND c.status <> 'revoked' AND c.not_after >= now)
         ORDER BY c.status = 'revoked' DESC, c.id DESC LIMIT 1;
        IF condition IS NOT NULL THEN
            RETURN;
        END IF;
        IF new_key AND EXISTS (
            SELECT FROM cert_order o
             WHERE o.spki_sha256 = spki AND o.collected = 0 AND o.state NOT IN ('issued', 'failed')
        ) THEN
            condition := 'new_key';
            RETURN;
        END IF;
    END IF;
    IF of_seat IS NOT NULL AND (alone OR per_seat IS NOT NULL) THEN
        SELECT count(*), min(c.not_after), (array_agg(c.serial ORDER BY c.not_after, c.id))[1],
               (SELECT count(*) FROM cert_order o
                 WHERE o.profile = of_profile AND o.seat = of_seat AND o.state NOT IN ('issued', 'failed'))
          INTO number, first_end, in_the_way, orders
          FROM certificate c
         WHERE c.profile = of_profile AND c.seat = of_seat AND c.status <> 'revoked' AND c.not_after >= now
           AND c.serial <> updates;
        IF alone AND number + orders + mates > 0 THEN
            condition := 'alone_in_seat';
        ELSIF number + orders >= per_seat - mates THEN
            condition := 'per_seat';
        END IF;
        IF condition IS NOT NULL THEN
            -- when none is in force, it is orders or those issued with it that are too many
            IF number > 0 AND NOT (condition = 'alone_in_seat' AND orders > 0) THEN
                until := first_end;
            END IF;
            RETURN;
        END IF;
        in_the_way := NULL;
    END IF;
    IF per_day IS NOT NULL THEN
        most := per_day - others;
        IF coalesce((SELECT d.certificates FROM issued_per_day d
                      WHERE d.profile = of_profile AND d.day = now / 86400), 0) + spent_too >= most THEN
            condition := 'per_day';
            IF most > 0 THEN
                until := (now / 86400 + 1) * 86400;
            END IF;
        END IF;
    END IF;
END
$$
"""
"""Which condition one certificate would fail now."""

ISSUE = """
CREATE FUNCTION cmpd_issue_1(
    locks bigint[], again boolean,
    t_id bytea[], t_state text[], t_created bigint[], t_confirm_by bigint[], t_profile text[], t_operation text[],
    t_credential text[], t_serials bytea[], t_nonce bytea[], t_first_request bytea[], t_first_reply bytea[],
    t_last_request bytea[], t_last_reply bytea[], t_code bigint[], t_now bigint[], t_number bigint[],
    t_same_key boolean[],
    c_of bigint[], c_serial bytea[], c_status text[], c_issuer text[], c_profile text[], c_issued_at bigint[],
    c_not_after bigint[], c_transaction_id bytea[], c_cert_req_id bigint[], c_revoked_at bigint[], c_reason bigint[],
    c_spki bytea[], c_der bytea[], c_seat text[], c_ticket text[],
    c_new_key boolean[], c_alone boolean[], c_per_seat bigint[], c_per_day bigint[], c_updates bytea[],
    c_mates bigint[]
) RETURNS TABLE (r_outcome text, r_in_the_way bytea, r_until bigint, r_seat text) LANGUAGE plpgsql AS $$
DECLARE
    t record;
    c record;
    u record;
    spent jsonb := '{}';
    profile_and_day text;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    -- in the order of their numbers everywhere: so nobody waits in a circle
    PERFORM pg_advisory_xact_lock(number) FROM unnest(locks) AS number;
    FOR t IN
        SELECT * FROM unnest(
            t_id, t_state, t_created, t_confirm_by, t_profile, t_operation, t_credential, t_serials, t_nonce,
            t_first_request, t_first_reply, t_last_request, t_last_reply, t_code, t_now, t_number, t_same_key
        ) WITH ORDINALITY AS x (
            id, state, created, confirm_by, profile, operation, credential, serials, nonce,
            first_request, first_reply, last_request, last_reply, code, now, number, same_key, n
        )
    LOOP
        r_outcome := CASE WHEN t.same_key THEN 'new_key' END;
        r_in_the_way := NULL;
        r_until := NULL;
        r_seat := NULL;
        profile_and_day := (t.now / 86400) || ' ' || t.profile;
        IF r_outcome IS NULL THEN
            FOR c IN
                SELECT * FROM unnest(
                    c_of, c_profile, c_seat, c_spki, c_new_key, c_alone, c_per_seat, c_per_day, c_updates, c_mates
                ) AS y (of_n, profile, seat, spki, new_key, alone, per_seat, per_day, updates, mates)
                WHERE of_n = t.n
            LOOP
                u := cmpd_unmet_1(
                    c.profile, c.seat, c.spki, c.new_key, c.alone, c.per_seat, c.per_day, c.updates, t.number - 1,
                    c.mates, coalesce((spent->>profile_and_day)::bigint, 0), t.now
                );
                IF u.condition IS NOT NULL THEN
                    r_outcome := u.condition;
                    r_in_the_way := u.in_the_way;
                    r_until := u.until;
                    r_seat := c.seat;
                    EXIT;
                END IF;
            END LOOP;
        END IF;
        IF r_outcome IS NOT NULL THEN
            -- nothing is written yet; the same request a second time is to hear of the first
            IF EXISTS (SELECT FROM cmp_transaction x WHERE x.transaction_id = t.id) THEN
                r_outcome := 'exists';
            END IF;
        ELSE
            INSERT INTO cmp_transaction (
                transaction_id, state, created, confirm_by, profile, operation, credential, serials, nonce,
                first_request, first_reply, last_request, last_reply
            ) VALUES (
                t.id, t.state, t.created, t.confirm_by, t.profile, t.operation, t.credential, t.serials, t.nonce,
                t.first_request, t.first_reply, t.last_request, t.last_reply
            ) ON CONFLICT (transaction_id) DO NOTHING;
            IF NOT FOUND THEN
                r_outcome := 'exists';
            ELSIF t.code IS NOT NULL THEN
                UPDATE enrollment_code e SET used = e.used + t.number,
                       locks = CASE WHEN e.locked_until > t.now THEN e.locks ELSE 0 END,
                       locked_until = CASE WHEN e.locked_until > t.now THEN e.locked_until END,
                       wrong_macs = 0
                 WHERE e.id = t.code AND e.revoked_at IS NULL
                   AND (e.valid_from IS NULL OR e.valid_from <= t.now) AND (e.expires IS NULL OR e.expires > t.now)
                   AND (e.uses IS NULL OR e.used + t.number <= e.uses);
                IF NOT FOUND THEN
                    DELETE FROM cmp_transaction x WHERE x.transaction_id = t.id;
                    r_outcome := 'code';
                END IF;
            END IF;
        END IF;
        IF r_outcome IS NULL THEN
            INSERT INTO certificate (
                serial, status, issuer, profile, issued_at, not_after, transaction_id, cert_req_id, revoked_at, reason,
                spki_sha256, der, seat, ticket
            )
            SELECT y.serial, y.status, y.issuer, y.profile, y.issued_at, y.not_after, y.transaction_id, y.cert_req_id,
                   y.revoked_at, y.reason, y.spki, y.der, y.seat, y.ticket
              FROM unnest(
                  c_of, c_serial, c_status, c_issuer, c_profile, c_issued_at, c_not_after, c_transaction_id,
                  c_cert_req_id, c_revoked_at, c_reason, c_spki, c_der, c_seat, c_ticket
              ) WITH ORDINALITY AS y (
                  of_n, serial, status, issuer, profile, issued_at, not_after, transaction_id, cert_req_id, revoked_at,
                  reason, spki, der, seat, ticket, m
              )
             WHERE y.of_n = t.n ORDER BY y.m;
            IF t.number > 0 THEN
                spent := spent || jsonb_build_object(
                    profile_and_day, coalesce((spent->>profile_and_day)::bigint, 0) + t.number
                );
            END IF;
        ELSIF r_outcome = 'exists' AND again AND EXISTS (
            SELECT FROM cmp_transaction x
             WHERE x.transaction_id = t.id AND x.first_request = t.first_request AND x.first_reply = t.first_reply
        ) THEN
            r_outcome := NULL;  -- it had been committed, and its answer was lost
        END IF;
        RETURN NEXT;
    END LOOP;
    INSERT INTO issuer (name, revocations)
    SELECT y.issuer, count(*)
      FROM unnest(c_status, c_serial, c_issuer) AS y (status, serial, issuer)
      JOIN certificate kept ON kept.serial = y.serial
     WHERE y.status = 'revoked' GROUP BY y.issuer ORDER BY y.issuer
    ON CONFLICT (name) DO UPDATE SET revocations = issuer.revocations + excluded.revocations;
    -- last, for every other node waits for these rows
    INSERT INTO issued_per_day (profile, day, certificates)
    SELECT substr(key, strpos(key, ' ') + 1), split_part(key, ' ', 1)::bigint, value::bigint
      FROM jsonb_each_text(spent) ORDER BY key
    ON CONFLICT (profile, day) DO UPDATE SET certificates = issued_per_day.certificates + excluded.certificates;
END
$$
"""
"""New transactions with their certificates, one after another; a row for each: why not, or NULL."""
