//! The network between clients and holder: messages are lost, doubled, late, and overtake each other; a client is cut off.

use swarmkeep_core::testing::Draw;

use crate::weather::Weather;

/// The way between clients and holder.
#[derive(Debug)]
pub struct Network {
    draw: Draw,
    weather: Weather,
    /// Until when each client is cut off.
    cut_until_ms: Vec<u64>,
    calm: bool,
}

impl Network {
    /// A network for so many clients.
    #[must_use]
    pub fn new(seed: u64, weather: Weather, clients: usize) -> Self {
        Self { draw: Draw::new(seed), weather, cut_until_ms: vec![0; clients], calm: false }
    }

    /// When the copies of a request arrive: none if it is lost.
    pub fn request(&mut self, client: usize, now_ms: u64) -> Vec<u64> {
        let copies = 1 + usize::from(self.happens(self.weather.doubled));
        (0..copies).filter_map(|_| self.message(client, now_ms)).collect()
    }

    /// When an answer arrives: never if it is lost.
    pub fn answer(&mut self, client: usize, now_ms: u64) -> Option<u64> {
        self.message(client, now_ms)
    }

    /// Cuts a client off, from now on.
    pub fn cut(&mut self, client: usize, until_ms: u64) {
        self.cut_until_ms[client] = until_ms;
    }

    /// Whether a client is cut off.
    #[must_use]
    pub fn is_cut(&self, client: usize, now_ms: u64) -> bool {
        !self.calm && self.cut_until_ms[client] > now_ms
    }

    /// From now on everything arrives.
    pub fn calm(&mut self) {
        self.calm = true;
    }

    fn happens(&mut self, per_mille: usize) -> bool {
        !self.calm && self.draw.below(1_000) < per_mille
    }

    fn message(&mut self, client: usize, now_ms: u64) -> Option<u64> {
        if self.happens(self.weather.lost) || self.is_cut(client, now_ms) {
            return None;
        }
        let delay = match self.calm {
            true => 1,
            // Once in a while one stays behind for long.
            false if self.draw.one_in(50) => 2_000,
            false => 1 + self.draw.below(usize::try_from(self.weather.delay_ms).unwrap()) as u64,
        };
        Some(now_ms + delay)
    }
}
