//! The catalogue.

use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::words::{BRANDS, CLASSES, COLORS, Class, PHRASES, SIZES};

/// An item of the shop.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    pub id: String,
    pub class: &'static Class,
    pub brand: &'static str,
    pub color: &'static str,
    pub material: &'static str,
    pub size: &'static str,
    /// Distinct.
    pub features: Vec<&'static str>,
    /// Euros; some sellers give none.
    pub price: Option<f64>,
    /// 1 to 5; nothing without reviews.
    pub rating: Option<f64>,
    pub review_count: u32,
    /// Share of all demand, from a Zipf law.
    pub popularity: f64,
    pub text: String,
}

impl Product {
    pub fn name(&self) -> String {
        format!(
            "{} {} {}, {}, {}, {}",
            self.brand,
            self.features.join(" "),
            self.class.name,
            self.material,
            self.color,
            self.size
        )
    }

    pub fn hierarchy(&self) -> String {
        format!("{} / {}", self.class.department, self.class.name)
    }
}

/// Exponent of the popularity law; about what shops see.
const ZIPF: f64 = 0.9;

pub(crate) fn generate(random: &mut ChaCha8Rng, count: usize) -> Vec<Product> {
    let weights: Vec<f64> = (1..=count).map(|rank| 1.0 / to_f64(rank).powf(ZIPF)).collect();
    let total: f64 = weights.iter().sum();
    // Ranks are dealt at random, so that ids tell nothing of popularity.
    let mut ranks: Vec<usize> = (0..count).collect();
    rand::seq::SliceRandom::shuffle(ranks.as_mut_slice(), random);
    ranks
        .into_iter()
        .enumerate()
        .map(|(i, rank)| product(random, i, weights[rank] / total * to_f64(count)))
        .collect()
}

fn product(random: &mut ChaCha8Rng, number: usize, popularity: f64) -> Product {
    let class = CLASSES.choose(random).unwrap_or(&CLASSES[0]);
    let mut features: Vec<&'static str> = class.features.choose_multiple(random, 2).copied().collect();
    features.truncate(random.random_range(1..=2));
    let (low, high) = class.price;
    // Most products are cheap, few are dear.
    let price = low * (high / low).powf(random.random::<f64>().powf(1.6));
    let quality = random.random::<f64>();
    let reviews = (popularity * 40.0 * random.random_range(0.3..1.7)).round();
    let review_count = to_u32(reviews);
    let rating = (review_count > 0)
        .then(|| ((3.0 + 2.0 * quality + random.random_range(-0.4..0.4)) * 10.0).round() / 10.0);
    let color = *COLORS.choose(random).unwrap_or(&COLORS[0]);
    let material = class.materials.choose(random).copied().unwrap_or_default();
    let phrases: Vec<_> = PHRASES.choose_multiple(random, 2).copied().collect();
    let text = format!(
        "{color} {material} {}, {}, {}. Also known as {}.",
        class.name,
        phrases.join(", "),
        features.join(" and "),
        class.synonyms.choose(random).copied().unwrap_or_default()
    );
    Product {
        id: format!("S{:06}", number * 7919 % 1_000_000),
        class,
        brand: BRANDS.choose(random).copied().unwrap_or_default(),
        color,
        material,
        size: SIZES.choose(random).copied().unwrap_or_default(),
        features,
        price: (random.random::<f64>() < 0.95).then(|| (price * 100.0).round() / 100.0),
        rating: rating.map(|rating: f64| rating.clamp(1.0, 5.0)),
        review_count,
        popularity,
        text,
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a small shop")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count, never negative")]
fn to_u32(count: f64) -> u32 {
    count as u32
}
