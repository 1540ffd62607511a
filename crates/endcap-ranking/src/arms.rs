//! Which arm of a rollout a shopper is on.

use endcap_types::{Arm, ModelName};
use xxhash_rust::xxh3::xxh3_64;

/// The arm of a user or session: the same on every gateway and after every restart, and a shopper who is on the
/// candidate at one split stays there at every larger one. Nobody's (`""`) arm is stable.
pub fn arm(model: &ModelName, shopper: &str, candidate_permille: u16) -> Arm {
    if shopper.is_empty() || candidate_permille == 0 {
        return Arm::Stable;
    }
    // Salted with the model, so that two models' candidates do not meet the same shoppers.
    let bucket = xxh3_64(format!("{model}\0{shopper}").as_bytes()) % 1000;
    if bucket < u64::from(candidate_permille) { Arm::Candidate } else { Arm::Stable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_are_sticky_and_of_the_asked_size() {
        let model: ModelName = "m".parse().unwrap();
        let on = |permille: u16| {
            (0..20_000)
                .map(|i| format!("user-{i}"))
                .filter(|u| arm(&model, u, permille) == Arm::Candidate)
                .collect::<Vec<_>>()
        };
        let (small, large) = (on(50), on(250));
        assert!((800..1200).contains(&small.len()), "{}", small.len());
        assert!(small.iter().all(|user| large.contains(user)), "a shopper left the candidate when it grew");
        assert_eq!(arm(&model, "", 1000), Arm::Stable);
    }
}
