//! A simulated shop: catalogue, queries, graded labels, shoppers with tastes and their events, all from one seed.
//!
//! A development crate: the demo bundle, tests and benches are made with it, the product does not contain it. Every
//! word is written for this project; nothing in it is a real product, shopper or click. Read [`Shop`] first.

mod events;
mod files;
mod labels;
mod products;
mod queries;
mod shop;
mod words;

pub use events::{Event, Shopper};
pub use files::write;
pub use labels::{Grade, Label};
pub use products::Product;
pub use queries::{Intent, Query};
pub use shop::{Shop, ShopOptions};
pub use words::Class;
