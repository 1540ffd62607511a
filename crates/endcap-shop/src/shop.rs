//! The shop as a whole.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::{Event, Label, Product, Query, Shopper, events, labels, products, queries};

/// What the shop is made from. Equal options make an equal shop, on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShopOptions {
    pub seed: u64,
    pub items: usize,
    pub queries: u32,
    pub shoppers: usize,
    /// Pages that shoppers were shown.
    pub pages: usize,
}

impl Default for ShopOptions {
    fn default() -> Self {
        Self { seed: 7, items: 5_000, queries: 300, shoppers: 500, pages: 5_000 }
    }
}

/// A simulated shop.
#[derive(Debug, Clone, PartialEq)]
pub struct Shop {
    options: ShopOptions,
    pub products: Vec<Product>,
    pub queries: Vec<Query>,
    pub labels: Vec<Label>,
    pub shoppers: Vec<Shopper>,
}

impl Shop {
    pub fn generate(options: &ShopOptions) -> Self {
        // A stream per part: more queries must not change the products.
        let stream = |number: u64| {
            let mut random = ChaCha8Rng::seed_from_u64(options.seed);
            random.set_stream(number);
            random
        };
        let products = products::generate(&mut stream(1), options.items);
        // A query that nothing in the shop answers says nothing of a ranking.
        let answered = |query: &Query| products.iter().any(|product| query.intent.is_met_by(product));
        let queries: Vec<Query> = queries::generate(&mut stream(2), options.queries * 4)
            .into_iter()
            .filter(answered)
            .take(options.queries as usize)
            .collect();
        let labels = labels::generate(&mut stream(3), &products, &queries);
        let shoppers = events::shoppers(&mut stream(4), options.shoppers);
        Self { options: *options, products, queries, labels, shoppers }
    }

    /// What shoppers did, page after page.
    pub fn events(&self) -> impl Iterator<Item = Event> + '_ {
        events::generate(self, self.options.seed, self.options.pages)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Grade;

    fn shop() -> Shop {
        Shop::generate(&ShopOptions { items: 2_000, queries: 150, pages: 3_000, ..ShopOptions::default() })
    }

    #[test]
    fn the_same_seed_makes_the_same_shop_and_another_seed_another() {
        let shop = shop();
        assert_eq!(shop, self::shop());
        assert!(shop.events().eq(self::shop().events()));
        let other =
            Shop::generate(&ShopOptions { seed: 8, items: 2_000, queries: 150, ..ShopOptions::default() });
        assert_ne!(shop.products, other.products);
    }

    #[test]
    fn ids_are_distinct_and_popularity_is_steep() {
        let shop = shop();
        let ids: HashSet<_> = shop.products.iter().map(|product| &product.id).collect();
        assert_eq!(ids.len(), shop.products.len());
        let mut popularity: Vec<f64> = shop.products.iter().map(|product| product.popularity).collect();
        popularity.sort_by(|a, b| b.total_cmp(a));
        let (top, all): (f64, f64) = (popularity[..200].iter().sum(), popularity.iter().sum());
        assert!(top / all > 0.4, "a tenth of the products has {:.2} of the demand", top / all);
    }

    #[test]
    fn every_query_has_an_exact_answer_and_labels_say_the_truth() {
        let shop = shop();
        for query in &shop.queries {
            let labels = shop.labels.iter().filter(|label| label.query_id == query.id);
            assert!(labels.clone().any(|label| label.grade == Grade::Exact), "{}", query.text);
            for label in labels {
                assert_eq!(Grade::of(query, &shop.products[label.product]), label.grade);
            }
        }
    }

    #[test]
    fn queries_have_synonyms_misspellings_and_without() {
        let shop = shop();
        let share = |has: &dyn Fn(&Query) -> bool| shop.queries.iter().filter(|query| has(query)).count();
        assert!(share(&|query| query.misspelled) > 5);
        assert!(share(&|query| query.text.contains("without ")) > 5);
        let synonym = |query: &Query| query.intent.class.synonyms.iter().any(|s| query.text.contains(s));
        assert!(share(&synonym) > 15);
    }

    #[test]
    fn higher_positions_are_clicked_more_often_for_the_same_grade() {
        let shop = shop();
        let rate = |position: u32| {
            let at = |event: &Event| event.position == position;
            let shown: Vec<Event> = shop.events().filter(at).collect();
            (shown.iter().filter(|event| event.clicked).count(), shown.len())
        };
        let ((first, shown_first), (last, shown_last)) = (rate(1), rate(10));
        assert!(
            first * shown_last > 2 * last * shown_first,
            "{first}/{shown_first} against {last}/{shown_last}"
        );
    }
}
