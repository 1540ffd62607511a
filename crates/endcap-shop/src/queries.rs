//! What shoppers type: classes by name or synonym, with wishes, misspellings and "without".

use rand::{Rng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    Product,
    words::{BRANDS, CLASSES, COLORS, Class},
};

/// What a shopper means.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    pub class: &'static Class,
    pub color: Option<&'static str>,
    pub material: Option<&'static str>,
    pub brand: Option<&'static str>,
    pub feature: Option<&'static str>,
    /// A colour, material or feature that must *not* be.
    pub without: Option<&'static str>,
}

/// What a shopper typed, and means.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub id: u32,
    pub text: String,
    pub intent: Intent,
    /// A letter was lost, doubled or swapped.
    pub misspelled: bool,
}

impl Intent {
    /// Whether a product is what was meant.
    pub fn is_met_by(&self, product: &Product) -> bool {
        let wished = |wish: Option<&str>, found: &str| wish.is_none_or(|wish| wish == found);
        self.class == product.class
            && wished(self.color, product.color)
            && wished(self.material, product.material)
            && wished(self.brand, product.brand)
            && self.feature.is_none_or(|feature| product.features.contains(&feature))
            && !self.without.is_some_and(|unwanted| has(product, unwanted))
    }
}

fn has(product: &Product, word: &str) -> bool {
    product.color == word || product.material == word || product.features.contains(&word)
}

pub(crate) fn generate(random: &mut ChaCha8Rng, count: u32) -> Vec<Query> {
    (1..=count).map(|id| query(random, id)).collect()
}

fn query(random: &mut ChaCha8Rng, id: u32) -> Query {
    let class = CLASSES.choose(random).unwrap_or(&CLASSES[0]);
    let mut intent = Intent { class, color: None, material: None, brand: None, feature: None, without: None };
    let chance = |random: &mut ChaCha8Rng, share: f64| random.random::<f64>() < share;
    if chance(random, 0.5) {
        intent.color = COLORS.choose(random).copied();
    }
    if chance(random, 0.35) {
        intent.material = class.materials.choose(random).copied();
    }
    if chance(random, 0.15) {
        intent.brand = BRANDS.choose(random).copied();
    }
    if chance(random, 0.35) {
        intent.feature = class.features.choose(random).copied();
    }
    if chance(random, 0.12) {
        intent.without = class.features.iter().copied().rfind(|f| Some(*f) != intent.feature);
    }
    let text = words(random, &intent);
    let (text, misspelled) = if chance(random, 0.15) { misspell(random, &text) } else { (text, false) };
    Query { id, text, intent, misspelled }
}

fn words(random: &mut ChaCha8Rng, intent: &Intent) -> String {
    let synonym = intent.class.synonyms.choose(random).copied().unwrap_or(intent.class.name);
    let noun = if random.random::<f64>() < 0.25 { synonym } else { intent.class.name };
    let before = [intent.color, intent.material, intent.brand];
    let mut words: Vec<String> = before.into_iter().flatten().map(str::to_lowercase).collect();
    words.push(noun.to_owned());
    match intent.feature {
        // "with lid" follows the noun, "dimmable" goes before it.
        Some(feature) if feature.starts_with("with") => words.push(feature.to_owned()),
        Some(feature) => words.insert(0, feature.to_owned()),
        None => {}
    }
    if let Some(unwanted) = intent.without {
        words.push(format!("without {}", unwanted.trim_start_matches("with ")));
    }
    words.join(" ")
}

/// Loses, doubles or swaps a letter of the longest word.
fn misspell(random: &mut ChaCha8Rng, text: &str) -> (String, bool) {
    let Some(longest) = text.split(' ').max_by_key(|word| word.len()).filter(|word| word.len() >= 5) else {
        return (text.to_owned(), false);
    };
    let mut letters: Vec<char> = longest.chars().collect();
    let at = random.random_range(1..letters.len() - 1);
    match random.random_range(0..3) {
        0 => {
            letters.remove(at);
        }
        1 => letters.insert(at, letters[at]),
        _ => letters.swap(at, at + 1),
    }
    let wrong: String = letters.into_iter().collect();
    let misspelled = wrong != longest;
    (text.replacen(longest, &wrong, 1), misspelled)
}
