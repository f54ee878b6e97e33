//! What the protocol wants beside the API's words: ids that nobody guesses.

use super::api::Problem;

/// An id that nobody guesses.
pub(super) fn drawn() -> Result<String, Problem> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Problem::new("unavailable", format!("the system gives no randomness: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_drawn() {
        assert_ne!(drawn().unwrap(), drawn().unwrap());
        assert_eq!(drawn().unwrap().len(), 32);
    }
}
