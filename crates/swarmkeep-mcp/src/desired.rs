//! What a client has said ought to be, and the server has agreed to: said again on every new connection.

use std::collections::BTreeMap;

use crate::envelope::Envelope;

/// Subscriptions and the log level.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// By resource, as JSON text: the request that subscribed.
    subscriptions: BTreeMap<String, Envelope>,
    level: Option<Envelope>,
}

/// Subscriptions that are remembered; what is beyond them is not said again.
const SUBSCRIPTIONS: usize = 1_024;

impl Desired {
    /// The server has agreed to this request.
    pub fn agreed(&mut self, request: &Envelope) {
        let resource = || request.param("uri").map(str::to_owned);
        match request.method() {
            Some("resources/subscribe") => {
                if let Some(resource) = resource()
                    && (self.subscriptions.len() < SUBSCRIPTIONS || self.subscriptions.contains_key(&resource))
                {
                    self.subscriptions.insert(resource, request.clone());
                }
            }
            Some("resources/unsubscribe") => {
                if let Some(resource) = resource() {
                    self.subscriptions.remove(&resource);
                }
            }
            Some("logging/setLevel") => self.level = Some(request.clone()),
            _ => {}
        }
    }

    /// What was agreed upon before, from [`Desired::again`].
    #[must_use]
    pub fn restored(requests: &[String]) -> Self {
        let mut desired = Self::default();
        for request in requests {
            // What cannot be read is not said again.
            if let Ok(request) = Envelope::parse(request.clone()) {
                desired.agreed(&request);
            }
        }
        desired
    }

    /// The requests to say again, level first.
    pub fn again(&self) -> impl Iterator<Item = &Envelope> {
        self.level.iter().chain(self.subscriptions.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_word_counts() {
        let mut desired = Desired::default();
        let mut say = |text: &str| desired.agreed(&Envelope::parse(text.to_owned()).unwrap());
        say(r#"{"id":1,"method":"resources/subscribe","params":{"uri":"a"}}"#);
        say(r#"{"id":2,"method":"resources/subscribe","params":{"uri":"b"}}"#);
        say(r#"{"id":3,"method":"logging/setLevel","params":{"level":"info"}}"#);
        say(r#"{"id":4,"method":"logging/setLevel","params":{"level":"debug"}}"#);
        say(r#"{"id":5,"method":"resources/unsubscribe","params":{"uri":"a"}}"#);
        say(r#"{"id":6,"method":"tools/list"}"#);
        let again: Vec<&str> = desired.again().filter_map(Envelope::id).collect();
        assert_eq!(again, ["4", "2"]);
        let kept: Vec<String> =
            desired.again().map(|request| String::from_utf8(request.bytes().to_vec()).unwrap()).collect();
        let again = Desired::restored(&kept);
        assert_eq!(again.again().filter_map(Envelope::id).collect::<Vec<_>>(), ["4", "2"]);
    }
}
