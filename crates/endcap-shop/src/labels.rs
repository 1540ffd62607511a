//! Judgments, from what queries really mean.

use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::{Product, Query};

/// How well a product serves a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    Irrelevant,
    /// Goes with what was meant: another class of the same department.
    Complement,
    /// The class that was meant, but a wish is not met.
    Substitute,
    Exact,
}

impl Grade {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Irrelevant => "Irrelevant",
            Self::Complement => "Complement",
            Self::Substitute => "Substitute",
            Self::Exact => "Exact",
        }
    }

    pub fn gain(self) -> f32 {
        match self {
            Self::Irrelevant => 0.0,
            Self::Complement => 0.01,
            Self::Substitute => 0.1,
            Self::Exact => 1.0,
        }
    }

    pub fn of(query: &Query, product: &Product) -> Self {
        if query.intent.is_met_by(product) {
            Self::Exact
        } else if query.intent.class == product.class {
            Self::Substitute
        } else if query.intent.class.department == product.class.department {
            Self::Complement
        } else {
            Self::Irrelevant
        }
    }
}

/// A judgment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub query_id: u32,
    /// Index in the catalogue.
    pub product: usize,
    pub grade: Grade,
}

/// Judged per grade and query: judges are paid by the hour.
const JUDGED: [(Grade, usize); 4] =
    [(Grade::Exact, 400), (Grade::Substitute, 60), (Grade::Complement, 12), (Grade::Irrelevant, 12)];

pub(crate) fn generate(random: &mut ChaCha8Rng, products: &[Product], queries: &[Query]) -> Vec<Label> {
    let mut labels = Vec::new();
    for query in queries {
        for (grade, most) in JUDGED {
            let of_grade: Vec<usize> =
                (0..products.len()).filter(|i| Grade::of(query, &products[*i]) == grade).collect();
            let mut judged: Vec<usize> = of_grade.choose_multiple(random, most).copied().collect();
            judged.sort_unstable();
            labels.extend(judged.into_iter().map(|product| Label { query_id: query.id, product, grade }));
        }
    }
    labels
}
