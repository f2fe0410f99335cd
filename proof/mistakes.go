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
		{"a second that does not fit one answer is not collected", "./poller TestCertifiedSweepsMissNothing", []edit{
			{"poller/sweep.go", "			if crowded := cursor; p.owns(crowded) {", "			if crowded := cursor; false && p.owns(crowded) {"},
		}},
		{"a sweep ends after its fifth answer", "./poller TestCountThatAgreesEndsNoSweep", []edit{
			{"poller/sweep.go", "		if a.short || last > p.to {\n			break", "		if a.short || last > p.to || s.requests.Load() > 5 {\n			break"},
		}},
		{"a sweep leaves the rest to what its count finds", "./poller TestQuietListIsReadToItsEnd", []edit{
			{"poller/sweep.go", "		if a.short || last > p.to {\n			break", "		if a.short || last > p.to || s.requests.Load() > 5 {\n			break"},
		}},
		{"the list is paged by offset", "./poller TestCertifiedSweepsMissNothing", []edit{
			{"poller/sweep.go", "	for cursor, a := p.cursor, p.answer; ; a = nil {\n", "	_, page := proof, 0\n	for cursor, a := p.cursor, p.answer; ; a = nil {\n"},
			{"poller/sweep.go", "			if a, err = s.next(ctx, cursor, proof); err != nil {", "			q := s.query()\n			page++\n			q.Offset = page * q.Limit\n			if a, err = s.sound(ctx, q); err != nil {"},
			{"poller/sweep.go", "	if n < 2 {\n		return []part{begin}, nil", "	if n < 1000 {\n		return []part{begin}, nil"},
		}},
		{"a crowded second is read once only", "./poller TestCrowdedSecondIsReadUntilTwoReadingsAgree", []edit{
			{"poller/collect.go", "if before != nil && counted == int64(len(before)) && maps.Equal(c.ids, before) {", "if counted == int64(len(c.ids)) || maps.Equal(c.ids, before) {"},
		}},
		{"a certificate is given although checks failed", "./poller TestServerThatHidesRowsGetsNoCertificate", []edit{
			{"poller/sweep.go", "	c.Certified = s.reason == \"\"", "	c.Certified = true"},
		}},
		{"an answer that hides rows is checked for its order only", "./poller TestServerThatHidesRowsGetsNoCertificate", []edit{
			{"poller/check.go", "		if int64(len(a.rows)) != due {", "		if int64(len(a.rows)) > due {"},
			{"poller/count.go", "		if int64(n) >= min(s.cert.TotalBefore, total) {", "		if n > 0 {"},
		}},
		{"the first page of a head scan counts as the whole list", "./poller TestHeadScanCertifiesTheWholeListOnly", []edit{
			{"poller/head.go", "if by.number == 0 && len(answers) > 0 && answers[0].whole() && p.sweeping.TryLock() {", "if by.number == 0 && len(answers) > 0 && p.sweeping.TryLock() {"},
		}},
		{"an error of the API ends a sweep as if the list ended", "./poller TestCertifiedSweepsMissNothing", []edit{
			{"poller/ask.go", "			p.failed(err)\n			return nil, err", "			p.failed(err)\n			return p.answer(&cwp.Page{HasTotal: true, SentAt: time.Now(), ReceivedAt: time.Now()}, q), nil"},
			{"poller/ask.go", "	triesDown  = 8 ", "	triesDown  = 1 "},
		}},
		{"a list beside an error is believed", "./poller TestHostileAnswersMoveNothing", []edit{
			{"cwp/decode.go", "	case e.errorPart != nil:\n		members", "	case e.errorPart != nil && e.list == nil:\n		members"},
		}},
		{"a key is forgotten early", "./poller TestKeysAreForgottenAfterCertifiedAbsenceOnly", []edit{
			{"poller/conclude.go", ">= in.p.cfg.ForgetAfter:", ">= in.p.cfg.ForgetAfter/2:"},
		}},
		{"what was not looked at counts as absent", "./poller TestKeysAreForgottenAfterCertifiedAbsenceOnly", []edit{
			{"poller/conclude.go", "		case unseen > 0:\n", "		case unseen > 0 && false:\n"},
		}},
		{"old news are told as new", "./poller TestStatusChangesAndReopeningsAreRecords", []edit{
			{"poller/intake.go", "	backfill := in.source.FirstCertAt.IsZero() &&", "	backfill := !in.source.FirstCertAt.IsZero() &&"},
		}},
		{"a change does not get a number of its own", "crash", []edit{
			{"poller/intake.go", "		after.Sequence++\n", "		after.Sequence = max(after.Sequence, 1)\n"},
		}},
		{"what the journal has no room for is forgotten", "./poller TestFullJournalIsWaitedFor", []edit{
			{"poller/intake.go", "			if err := wait.sleep(ctx); err != nil {\n				return err\n			}\n		case errors.Is(err, journal.ErrLeaseLost)", "			_ = wait\n			return nil\n		case errors.Is(err, journal.ErrLeaseLost)"},
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
		{"a row is written that cannot be read", "crash", []edit{
			{"journal/write.go", "	return last, b.SetSequence(last)\n", "	if err := b.Put(seqKey(last+1), []byte{rowRecord, 1, 2, 3}); err != nil {\n		return 0, err\n	}\n	return last, b.SetSequence(last + 1)\n"},
		}},
		{"nothing is synced", "power", []edit{
			{"journal/file.go", "	o.FreelistType = bolt.FreelistMapType\n", "	o.FreelistType = bolt.FreelistMapType\n	o.NoSync = true\n"},
		}},
		{"what not every sink has had is trimmed", "./journal TestOldRecordsAreTrimmedOnceEverySinkAndReplayHasPassedThem", []edit{
			{"journal/write.go", "return n <= trimBatch && lastSeq(k) <= low && len(v) >= rowHead+8", "return n <= trimBatch && low > 0 && len(v) >= rowHead+8"},
		}},
		{"what a replay still needs is trimmed", "./journal TestOldRecordsAreTrimmedOnceEverySinkAndReplayHasPassedThem", []edit{
			{"journal/write.go", "				low = min(low, r.After)\n", "				_ = min(low, r.After)\n"},
		}},
		{"a journal that is dead tells of the failed commit alone", "./journal TestWhoWaitsIsToldThatTheJournalIsDead", []edit{
			{"journal/write.go", "		if dead := f.Err(); dead != nil {\n			err = dead\n		}\n", ""},
		}},
		{"a damaged row counts as many records as it says itself", "./journal TestDamagedCountOfARowIsCountedRight", []edit{
			{"journal/read.go", "	if len(row) == 0 || row[0] != rowRecord {\n		r.First = last - min(last, runRecords) + 1", "	if r.First = firstSeq(key, row); false {\n		r.First = last - min(last, runRecords) + 1"},
		}},
		{"head scans do not come back to what they had no time for", "./poller TestBurstIsSeenSoon", []edit{
			{"poller/head.go", "	seen.begin()\n", "	seen.gaps = nil\n	seen.begin()\n"},
		}},
		{"what a full journal skips is not noted", "./journal TestSinkThatMaySkipLosesItsOldestAndAGapSaysSo", []edit{
			{"journal/write.go", "			if err := f.addGap(tx, gap); err != nil {", "			if err := error(nil); err != nil && gap.Records < 0 {"},
		}},
		{"a key that changed behind our back is overwritten", "./journal TestConformance", []edit{
			{"journal/write.go", "		if stored != c.Expect {", "		if stored > c.Expect+1000 {"},
		}},
		{"a cursor goes back", "./journal TestConformance", []edit{
			{"journal/write.go", "		next := s.Cursor.movedTo(stored.Seq)\n", "		next := s.Cursor.movedTo(0)\n"},
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

		{"a record is settled before its dead letter is kept", "./proof/whole TestWholeKeepsItsPromises", []edit{
			{"delivery/conclude.go", "	done := false\n	err := r.w.repeat(r.hard, \"settle\"", "	s.Dead = nil\n	if len(r.dead) > 0 && r.w.journal.Settle(context.WithoutCancel(r.hard), r.lease, s) == nil {\n		s.Dead = r.dead\n	}\n	done := false\n	err := r.w.repeat(r.hard, \"settle\""},
		}},
		{"a dead letter that is sent again is removed before the answer", "./delivery TestDeadLetterStaysUntilItIsAccepted", []edit{
			{"delivery/again.go", "		r.queue = append(r.queue, &job{items: []item{it}})\n", "		r.revived = append(r.revived, it.seq)\n		r.queue = append(r.queue, &job{items: []item{it}})\n"},
		}},
		{"what is sent again by a replay is not marked", "./delivery TestReplaySendsAgainInOrderUpToTheCursor", []edit{
			{"delivery/reader.go", "!rd.take(b, rec.Again())", "!rd.take(b, rec)"},
		}},
		{"a destination that refuses everything has had it", "./delivery TestHaltKeepsEverythingAndRecovers", []edit{
			{"delivery/outcome.go", "		o.halt, o.again = err, []*job{j}", "		o.halt, o.accepted = err, j.items"},
		}},
		{"a record is buried though nothing else passes", "./delivery TestBuriesNothingWhileNothingElsePasses", []edit{
			{"delivery/conclude.go", "	case verdict && s.proven:", "	case verdict:"},
		}},
		{"what was cancelled at the end counts as sent", "./delivery TestShutdownCancelsAttemptsAtGrace", []edit{
			{"delivery/conclude.go", "	if cancelled { // by us: it says nothing of the destination\n", "	if cancelled { // by us: it says nothing of the destination\n		r.done(j.items)\n"},
		}},
		{"a later change of an event does not wait for a refused one", "./delivery TestLaterRecordsOfAKeyWaitForItsSuspect", []edit{
			{"delivery/conclude.go", "	waits := func(it item) bool { seq, ok := first[it.key]; return ok && seq < it.seq }", "	waits := func(it item) bool { seq, ok := first[it.key]; return ok && seq < it.seq && false }"},
		}},
		{"a replay sends what is still owed", "./delivery TestReplaySendsNothingThatIsStillOwed", []edit{
			{"delivery/ledger.go", "	return seq > l.read && (i == 0 || l.spans[i-1].last < seq)\n", "	return false\n"},
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
			{"sinks/file/file.go", "import (\n", "import (\n	\"bytes\"\n"},
			{"sinks/file/file.go", "	n, err := s.write(s.file, text)", "	if at := bytes.IndexByte(text, '\\n'); at+1 < len(text) {\n		text = text[at+1:]\n	}\n	n, err := s.write(s.file, text)"},
		}},

		{"Splunk: any answer of status 200 confirms", "./sinks/all TestGarbageConfirmsNothing", []edit{
			{"sinks/splunkhec/answer.go", "	return a.status/100 == 2 && (a.code == codeSuccess || a.filling())", "	return a.status/100 == 2"},
		}},
		{"Elasticsearch: an answer with too few items confirms all", "./sinks/elastic TestAnswerThatDoesNotFitIsNeverSuccess", []edit{
			{"sinks/elastic/answer.go", "	if len(a.Items) != len(batch) {", "	if len(a.Items) > len(batch) {"},
		}},
		{"Slack: any answer of status 200 confirms", "./sinks/all TestGarbageConfirmsNothing", []edit{
			{"sinks/slack/slack.go", "	case r.Status == http.StatusOK && code == \"ok\":", "	case r.Status == http.StatusOK:"},
		}},
		// what is hostile
		{"an answer of the API is read to its end, however long it is", "siege", []edit{
			{"cwp/client.go", "	body := io.LimitReader(resp.Body, limit+1)\n", "	body := io.Reader(resp.Body)\n"},
		}},
		{"an answer that speaks of the moment confirms", "siege", []edit{
			{"sinks/internal/httpx/classify.go", "	case later(s):\n		return sinks.After(err, r.RetryAfter())", "	case later(s):\n		return nil"},
		}},
		{"an error beside a list does not count", "siege", []edit{
			{"cwp/decode.go", "	case e.errorPart != nil:\n		members", "	case e.errorPart != nil && e.list == nil:\n		members"},
		}},
		{"a count that is no number is left out of account", "siege", []edit{
			{"poller/count.go", "			s.doubt(\"no-count\", \"the API gives no TotalCount\")\n", ""},
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
