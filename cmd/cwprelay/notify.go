package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
)

// tellEvery is how often the service manager is told how things stand, where
// it does not want to hear more often.
const tellEvery = 10 * time.Second

// A notifier tells the service manager that started this process how it stands:
// sd_notify(3). Where none did, it says nothing.
type notifier struct {
	log  *zap.Logger
	open atomic.Pointer[supervisor] // nil: the daemon is being opened
	told string                     // the last STATUS; belongs to run
	late string                     // what the log was told of last; belongs to run
}

// start begins to tell, until stop.
func (n *notifier) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { n.run(ctx) })
	return func() { cancel(); telling.Wait() }
}

// begin says that the daemon is open and serves.
func (n *notifier) begin(s *supervisor) {
	n.open.Store(s)
	n.send(sd.SdNotifyReady)
}

// reloading says that the configuration is being read again; begin or ready
// says when that is over.
func (n *notifier) reloading() {
	n.send(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
}

func (n *notifier) ready() { n.send(sd.SdNotifyReady) }

func (n *notifier) send(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		n.log.Warn("the service manager cannot be told", zap.Error(err))
	}
}

// run says how things stand until ctx is done, and gives the signs of life that
// a watchdog waits for: none while a loop is not back by when it said.
func (n *notifier) run(ctx context.Context) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	watchdog, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the watchdog's time cannot be read; there will be no sign of life", zap.Error(err))
	}
	every := tellEvery
	if watchdog > 0 {
		every = min(every, watchdog/4)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		n.tell(ctx, watchdog > 0)
		select {
		case <-ctx.Done():
			n.send(sd.SdNotifyStopping + "\nSTATUS=ending")
			return
		case <-tick.C:
		}
	}
}

func (n *notifier) tell(ctx context.Context, watched bool) {
	var states []string
	status, late := "opening the journal", ""
	if s := n.open.Load(); s != nil {
		status, late = standing(ctx, s), strings.Join(s.a.now.Load().late(time.Now()), ", ")
	}
	if late != "" {
		status = "stuck: " + late
	}
	if late != "" && late != n.late {
		n.log.Error("a loop does not come back: no more signs of life for the service manager", zap.String("loop", late))
	}
	n.late = late
	if watched && late == "" {
		states = append(states, sd.SdNotifyWatchdog)
	}
	if status != n.told {
		states = append(states, "STATUS="+status)
		n.told = status
	}
	if len(states) > 0 && ctx.Err() == nil {
		n.send(strings.Join(states, "\n"))
	}
}

// standing is how a daemon stands, in one line.
func standing(ctx context.Context, s *supervisor) string {
	r := s.page.Readiness(ctx)
	if r.Ready {
		return "ready"
	}
	var reasons []string
	for _, reason := range r.Reasons {
		reasons = append(reasons, reason.About+": "+reason.Code)
	}
	return "not ready: " + strings.Join(reasons, ", ")
}

// A pulse knows by when each loop of a part said that it would be back.
type pulse struct {
	mu  sync.Mutex // guards due
	due map[string]time.Time
}

// beat notes that a loop is alive and will be back within so long; 0: when
// something comes, which may be never.
func (p *pulse) beat(loop string, within time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if within == 0 {
		delete(p.due, loop)
		return
	}
	if p.due == nil {
		p.due = map[string]time.Time{}
	}
	p.due[loop] = time.Now().Add(within)
}

// slack is how much later a loop may be than it said: the machine may be busy.
const slack = 30 * time.Second

// late are the loops that should be back and are not.
func (p *pulse) late(now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var loops []string
	for loop, due := range p.due {
		if now.After(due.Add(slack)) {
			loops = append(loops, loop)
		}
	}
	slices.Sort(loops)
	return loops
}

// late are the loops of all parts that should be back and are not.
func (p *parts) late(now time.Time) []string {
	var loops []string
	for _, x := range p.all() {
		for _, loop := range x.late(now) {
			loops = append(loops, fmt.Sprintf("%s (%s)", x.name(), loop))
		}
	}
	return loops
}
