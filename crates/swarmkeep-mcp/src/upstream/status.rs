//! How it stands, for people.

use super::{CallId, Envelope, OpenCall, Standing, Status, Upstream, class};

impl Upstream {
    pub(super) fn status(&self) -> Status {
        let now_ms = self.now_ms();
        // What waits in the queue may have come to an earlier daemon.
        let waited_ms = |call: CallId| {
            let left_ms = self.calls.queue_left_ms(call, now_ms).filter(|_| self.calls.is_queued(call))?;
            Some(self.terms.limits.queue.for_ms.saturating_sub(left_ms))
        };
        let open = |(call, message, asked, standing): (CallId, &Envelope, &class::Asked, Standing)| OpenCall {
            call,
            method: message.method().unwrap_or_default().to_owned(),
            name: message.name().map(str::to_owned),
            class: asked.class,
            standing,
            for_ms: waited_ms(call)
                .unwrap_or_else(|| now_ms.saturating_sub(self.calls.accepted_ms(call).unwrap_or(now_ms))),
            effect: self.places.get(&call).and_then(|place| place.key.clone()),
            is_queued: self.calls.is_queued(call),
        };
        Status {
            upstream: self.terms.upstream.clone(),
            phase: self.link.phase(),
            generation: self.link.generation(),
            failures: self.link.failures(),
            breaker_open: self.link.is_open(),
            down_ms: self.link.down_since_ms().map(|since_ms| now_ms.saturating_sub(since_ms)),
            in_flight: self.calls.in_flight(),
            strays: self.calls.strays().clone(),
            last_loss: self.last_loss.clone(),
            calls: self.calls.open().map(open).collect(),
        }
    }
}
