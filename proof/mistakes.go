package main

// mutations are the mistakes.
func mutations() []mutation {
	return []mutation{
		// poller and dedupe
		{"a state is stored before the record that tells it", "crash", []edit{
			{"poller/intake.go", "\t\t_, err := in.p.opt.Journal.Append(", `		bare := append([]journal.Change(nil), changes...)
		changes = append([]journal.Change(nil), changes...)
		for i := range changes {
			bare[i].Record = nil
			changes[i].Expect = changes[i].State.Sequence
		}
		if _, err := in.p.opt.Journal.Append(context.WithoutCancel(ctx), in.lease, journal.Batch{Changes: bare}); err != nil {
			in.loaded = false
			return err
		}
		_, err := in.p.opt.Journal.Append(`},
		}},
		{"a change of status is no news", "crash", []edit{
			{"dedupe/table.go", "return Changed, moved, true", "return Known, moved, true"},
		}},
		{"an event that is open again is no news", "crash", []edit{
			{"dedupe/table.go", "case t.statuses[r.status&placeMask].Code != sight.Status:", "case t.statuses[r.status&placeMask].Code < sight.Status:"},
		}},
		{"an older answer undoes a newer one", "network", []edit{
			{"dedupe/table.go", "case r.since() > 0 && r.since() > t.micros(sight.SentAt):", "case false:"},
		}},
		{"what was stored is not remembered until the next start", "crash", []edit{
			{"poller/intake.go", "		in.set.Put(sight, p.changes[i].State, p.at[i])", "		_ = sight"},
		}},
		{"a second that does not fit one answer is not collected", "network", []edit{
			{"poller/sweep.go", "			if crowded := cursor; p.owns(crowded) {", "			if crowded := cursor; false && p.owns(crowded) {"},
		}},
		{"a sweep ends after its fifth answer", "crash", []edit{
			{"poller/sweep.go", "		if a.short || last > p.to {\n			break", "		if a.short || last > p.to || s.requests.Load() > 5 {\n			break"},
			{"poller/sweep.go", "	c.Certified = s.reason == \"\"", "	c.Certified = true"},
		}},
		{"a long id is rounded", "crash", []edit{
			{"cwp/decode.go", "	texts := append(", "	if n, err := strconv.ParseFloat(string(id), 64); err == nil {\n		id = strconv.AppendFloat(nil, n, 'f', 0, 64)\n	}\n	texts := append("},
		}},

		// journal
		{"the last record of a commit is not written", "crash", []edit{
			{"journal/write.go", "		at := seqKey(last)\n", "		if last%7 == 3 {\n			continue\n		}\n		at := seqKey(last)\n"},
		}},
		{"a record is written twice", "crash", []edit{
			{"journal/write.go", "	return last, b.SetSequence(last)\n", "	again := rows[len(rows)-1]\n	row := bytes.Clone(again.row)\n	more := last + uint64(again.records)\n	sealRow(again.kind(), seqKey(more), row)\n	f.meta.Bytes += int64(8 + len(row))\n	if err := b.Put(seqKey(more), row); err != nil {\n		return 0, err\n	}\n	return last, b.SetSequence(more)\n"},
		}},
		{"a dead letter is dropped", "crash", []edit{
			{"journal/write.go", "for _, dl := range s.Dead {", "for _, dl := range s.Dead[:0] {"},
		}},
		{"the cursor hops over what is not settled", "crash", []edit{
			{"journal/write.go", "case r.First <= out.Seq+1:", "case r.First <= out.Seq+100:"},
		}},

		// delivery
		{"the cursor moves before the answer", "crash", []edit{
			{"delivery/run.go", "	go r.attempt(res, msgs, timeout)", "	r.done(j.items)\n	if err := r.store(); err != nil {\n		return err\n	}\n	go r.attempt(res, msgs, timeout)"},
		}},
		{"no answer counts as success", "crash", []edit{
			{"delivery/outcome.go", "	if err == nil {\n		return outcome{accepted: j.items, label: \"ok\"}", "	if err == nil || !sinks.IsAnswer(err) && sinks.ClassOf(err) == sinks.ClassRetry {\n		return outcome{accepted: j.items, label: \"ok\"}"},
		}},
		{"what failed of a batch counts as accepted", "crash", []edit{
			{"delivery/outcome.go", "		err, ok := failed[i]\n		if !ok {\n			o.accepted", "		err, ok := failed[i]\n		if !ok || sinks.ClassOf(err) == sinks.ClassRetry {\n			o.accepted"},
		}},
		{"a refused record is dropped", "crash", []edit{
			{"delivery/conclude.go", "	r.dead = append(r.dead, journal.DeadLetter{\n		Record: it.rec, Reason: s.reason", "	_ = append(r.dead, journal.DeadLetter{\n		Record: it.rec, Reason: s.reason"},
		}},
		{"the cursor is stored only now and then", "crash", []edit{
			{"delivery/conclude.go", "	if !r.unstored() && !lazy {\n		return nil", "	if len(r.receipts) < 12 && len(r.dead) == 0 && !lazy {\n		return nil"},
		}},
		{"what lies before settled records is taken as settled", "crash", []edit{
			{"delivery/reader.go", "return len(rd.ahead) > 0 && rd.ahead[0].First <= seq", "return len(rd.ahead) > 0 && rd.ahead[0].First <= seq+20"},
		}},
		{"the second half of a batch that is cut is lost", "crash", []edit{
			{"delivery/outcome.go", "	return []*job{j.part(j.items[:mid]), j.part(j.items[mid:])}", "	return []*job{j.part(j.items[:mid])}"},
		}},

		// sinks
		{"Splunk: posted is delivered, without acknowledgement", "crash", []edit{
			{"sinks/splunkhec/splunkhec.go", "	return receipt, s.confirm(ctx, ch, a.ackID)", "	return receipt, nil"},
		}},
		{"Splunk: an acknowledgement that is not told counts", "crash", []edit{
			{"sinks/splunkhec/acks.go", "			if wire.Acks[strconv.FormatInt(id, 10)] {", "			if _, known := wire.Acks[strconv.FormatInt(id, 10)]; known {"},
		}},
		{"Elasticsearch: an item that is refused for now counts as created", "crash", []edit{
			{"sinks/elastic/answer.go", "		case err != nil:\n			failed[i] = err", "		case err != nil && it.Status != http.StatusTooManyRequests:\n			failed[i] = err"},
		}},
		{"Kafka: the broker's answer is not waited for", "crash", []edit{
			{"sinks/kafka/answer.go", "RequiredAcks: kafka.RequireAll,", "RequiredAcks: kafka.RequireNone,"},
		}},
		{"webhook: one event behind the failed one counts as sent", "crash", []edit{
			{"sinks/webhook/webhook.go", "for later := i + 1; later < n; later++ {", "for later := i + 2; later < n; later++ {"},
		}},
		{"RELP: any answer is a good one", "crash", []edit{
			{"sinks/syslog/relp.go", "code == \"200\" {", "code != \"\" {"},
		}},
		{"syslog: written is delivered", "crash", []edit{
			{"sinks/syslog/syslog.go", "	if err := current.end(ctx); err != nil {", "	if err := error(nil); err != nil {"},
		}},
		{"file: the first line of a batch is not written", "crash", []edit{
			{"sinks/file/file.go", "	n, err := s.write(s.file, text)", "	if at := bytes.IndexByte(text, '\\n'); at+1 < len(text) {\n		text = text[at+1:]\n	}\n	n, err := s.write(s.file, text)"},
		}},

		// what grows
		{"each attempt leaves a goroutine", "soak", []edit{
			{"delivery/run.go", "	go r.attempt(res, msgs, timeout)", "	go func() { select {} }()\n	go r.attempt(res, msgs, timeout)"},
		}},
		{"every record stays in memory", "soak", []edit{
			{"delivery/reader.go", "	b.arena, it.body = arena, body(arena, from)", "	b.arena, it.body = arena, body(arena, from)\n	kept = append(kept, string(it.body))"},
			{"delivery/reader.go", "// refusedMax is", "var kept []string\n\n// refusedMax is"},
		}},
		{"each batch leaves a file open", "soak", []edit{
			{"delivery/run.go", "	go r.attempt(res, msgs, timeout)", "	f, _ := os.Open(os.DevNull)\n	leak = append(leak, f)\n	go r.attempt(res, msgs, timeout)"},
			{"delivery/run.go", "import (\n", "import (\n\t\"os\"\n"},
			{"delivery/run.go", "// A suspect is a record", "var leak []*os.File\n\n// A suspect is a record"},
		}},
	}
}
