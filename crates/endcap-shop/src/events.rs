//! Shoppers and what they do: they look from the top, click what serves them, and buy some of it.

use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::{Grade, Product, Shop, words::BRANDS};

/// Somebody with tastes.
#[derive(Debug, Clone, PartialEq)]
pub struct Shopper {
    pub id: String,
    /// -1 (buys cheap) to 1 (buys dear).
    pub price_affinity: f64,
    pub favourite_brand: &'static str,
}

/// One position of one page that a shopper was shown. Simulated, like everything here.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub shopper: usize,
    pub query_id: u32,
    /// Index in the catalogue.
    pub product: usize,
    /// From 1.
    pub position: u32,
    pub clicked: bool,
    pub purchased: bool,
}

/// Products on a page.
const PAGE: usize = 10;
/// Chance that position p is looked at: p to minus this (Craswell et al., 2008, call it examination).
const EXAMINATION: f64 = 0.8;

pub(crate) fn shoppers(random: &mut ChaCha8Rng, count: usize) -> Vec<Shopper> {
    (0..count)
        .map(|number| Shopper {
            id: format!("shopper-{number:04}"),
            price_affinity: (random.random_range(-1.0..1.0_f64) * 100.0).round() / 100.0,
            favourite_brand: BRANDS.choose(random).copied().unwrap_or_default(),
        })
        .collect()
}

/// Pages, one after another, each from a seed of its own, so that any part can be made again.
pub(crate) fn generate(shop: &Shop, seed: u64, pages: usize) -> impl Iterator<Item = Event> + '_ {
    (0..pages).flat_map(move |page| {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ (page as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        one_page(shop, &mut random)
    })
}

fn one_page(shop: &Shop, random: &mut ChaCha8Rng) -> Vec<Event> {
    let (Some(query), false) = (shop.queries.choose(random), shop.shoppers.is_empty()) else {
        return Vec::new();
    };
    let shopper = random.random_range(0..shop.shoppers.len());
    // The shop's old ranking: popular products of the class, with noise.
    let mut candidates: Vec<(f64, usize)> = shop
        .products
        .iter()
        .enumerate()
        .filter(|(_, product)| product.class == query.intent.class)
        .map(|(i, product)| (product.popularity * random.random_range(0.2..1.0), i))
        .collect();
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    (1..)
        .zip(candidates.into_iter().take(PAGE))
        .map(|(position, (_, product))| {
            let examined = random.random::<f64>() < f64::from(position).powf(-EXAMINATION);
            let attraction = attraction(
                &shop.shoppers[shopper],
                &shop.products[product],
                Grade::of(query, &shop.products[product]),
            );
            let clicked = examined && random.random::<f64>() < attraction;
            let purchased = clicked && random.random::<f64>() < 0.2;
            Event { shopper, query_id: query.id, product, position, clicked, purchased }
        })
        .collect()
}

/// Chance of a click on a product that is looked at.
fn attraction(shopper: &Shopper, product: &Product, grade: Grade) -> f64 {
    let base = match grade {
        Grade::Exact => 0.6,
        Grade::Substitute => 0.15,
        Grade::Complement => 0.03,
        Grade::Irrelevant => 0.01,
    };
    let (low, high) = product.class.price;
    // Where in its class's range a product is, -1 to 1.
    let dearness = product.price.map_or(0.0, |price| ((price / low).ln() / (high / low).ln()) * 2.0 - 1.0);
    let taste = 1.0 + 0.4 * shopper.price_affinity * dearness;
    let brand = if product.brand == shopper.favourite_brand { 1.3 } else { 1.0 };
    let rating = 0.7 + 0.3 * product.rating.unwrap_or(3.0) / 5.0;
    (base * taste * brand * rating).clamp(0.0, 1.0)
}
