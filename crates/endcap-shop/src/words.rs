//! The shop's words. A class brings its synonyms, materials, features and a price range; the rest is shared.

/// A product class.
#[derive(Debug, PartialEq)]
pub struct Class {
    pub name: &'static str,
    pub synonyms: &'static [&'static str],
    pub department: &'static str,
    pub materials: &'static [&'static str],
    pub features: &'static [&'static str],
    /// Euros.
    pub price: (f64, f64),
}

const fn class(
    department: &'static str,
    name: &'static str,
    synonyms: &'static [&'static str],
    materials: &'static [&'static str],
    features: &'static [&'static str],
    price: (f64, f64),
) -> Class {
    Class { name, synonyms, department, materials, features, price }
}

pub(crate) const COLORS: [&str; 14] = [
    "red", "blue", "green", "black", "white", "grey", "yellow", "orange", "pink", "navy", "beige", "brown",
    "turquoise", "ivory",
];

pub(crate) const SIZES: [&str; 5] = ["mini", "small", "medium", "large", "extra large"];

/// Invented brands.
pub(crate) const BRANDS: [&str; 48] = [
    "Alderby", "Arvika", "Bexmoor", "Birkholm", "Calvera", "Caskwell", "Corvane", "Dalgrove", "Dunmere", "Eastwick",
    "Elmora", "Fenwyn", "Ferrolux", "Galmont", "Granby", "Halden", "Harrowgate", "Hestra", "Ivoria", "Jorvik",
    "Kestrel", "Kirova", "Larkfield", "Lindqvist", "Lunaro", "Marlow", "Merivale", "Morrow", "Nordhav", "Norvale",
    "Oakhurst", "Olvera", "Pellworth", "Pinehill", "Quillon", "Quorra", "Ravelle", "Rosholt", "Saltmarsh",
    "Skandor", "Tarnfield", "Thornby", "Ulvaeus", "Vantor", "Wexley", "Wolden", "Yarrow", "Zephira",
];

/// What sellers write around the facts.
pub(crate) const PHRASES: [&str; 16] = [
    "made to last", "a favourite gift", "easy to clean", "for everyday use", "with a two year warranty",
    "designed for small homes", "tested by families", "ready in minutes", "packed without plastic",
    "a classic shape", "light and sturdy", "for indoors and outdoors", "our best seller", "new this season",
    "repairable with spare parts", "loved by professionals",
];

const METALS: &[&str] = &["stainless steel", "enamel", "copper", "cast iron", "aluminium"];
const WOODS: &[&str] = &["oak", "walnut", "pine", "bamboo", "birch"];
const CLOTHS: &[&str] = &["cotton", "linen", "wool", "fleece", "polyester"];
const HIDES: &[&str] = &["leather", "canvas", "nylon", "suede"];
const POTTERY: &[&str] = &["porcelain", "stoneware", "glass", "ceramic"];
const PLASTICS: &[&str] = &["silicone", "recycled plastic", "rubber", "acrylic"];

pub(crate) const CLASSES: [Class; 42] = [
    class("Kitchen", "kettle", &["water boiler", "teakettle"], METALS, &["whistling", "gooseneck", "induction", "cordless"], (18.0, 120.0)),
    class("Kitchen", "saucepan", &["cooking pot", "pot"], METALS, &["nonstick", "with lid", "induction", "stackable"], (15.0, 140.0)),
    class("Kitchen", "frying pan", &["skillet", "pan"], METALS, &["nonstick", "induction", "deep", "with lid"], (14.0, 150.0)),
    class("Kitchen", "mug", &["coffee cup", "cup"], POTTERY, &["with handle", "insulated", "stackable", "hand painted"], (5.0, 35.0)),
    class("Kitchen", "teapot", &["tea pot", "tea maker"], POTTERY, &["with infuser", "insulated", "hand painted", "stackable"], (14.0, 90.0)),
    class("Kitchen", "cutting board", &["chopping board", "board"], WOODS, &["with groove", "reversible", "foldable", "magnetic"], (9.0, 80.0)),
    class("Kitchen", "chef knife", &["kitchen knife", "cook's knife"], METALS, &["forged", "with sheath", "serrated", "balanced"], (12.0, 220.0)),
    class("Kitchen", "lunch box", &["bento box", "food container"], PLASTICS, &["leakproof", "insulated", "stackable", "with cutlery"], (8.0, 45.0)),
    class("Kitchen", "water bottle", &["drinking bottle", "flask"], METALS, &["insulated", "leakproof", "with straw", "foldable"], (9.0, 55.0)),
    class("Kitchen", "apron", &["kitchen apron", "cooking apron"], CLOTHS, &["with pockets", "adjustable", "waterproof", "cross back"], (12.0, 60.0)),
    class("Home", "table lamp", &["desk light", "bedside lamp"], POTTERY, &["dimmable", "rechargeable", "with usb port", "touch"], (19.0, 190.0)),
    class("Home", "floor lamp", &["standing lamp", "standing light"], METALS, &["dimmable", "adjustable", "with shelf", "tripod"], (39.0, 320.0)),
    class("Home", "cushion", &["throw pillow", "pillow"], CLOTHS, &["washable", "embroidered", "with cover", "reversible"], (9.0, 60.0)),
    class("Home", "blanket", &["throw", "plaid"], CLOTHS, &["weighted", "washable", "heated", "with fringes"], (19.0, 160.0)),
    class("Home", "curtain", &["drape", "window curtain"], CLOTHS, &["blackout", "sheer", "thermal", "with eyelets"], (15.0, 110.0)),
    class("Home", "rug", &["carpet", "mat"], CLOTHS, &["washable", "non slip", "hand woven", "reversible"], (29.0, 450.0)),
    class("Home", "vase", &["flower vase", "flower holder"], POTTERY, &["hand painted", "tall", "narrow", "ribbed"], (9.0, 120.0)),
    class("Home", "candle holder", &["candlestick", "tealight holder"], METALS, &["tall", "hanging", "set of three", "ribbed"], (7.0, 70.0)),
    class("Home", "wall clock", &["clock", "kitchen clock"], WOODS, &["silent", "radio controlled", "with thermometer", "luminous"], (15.0, 130.0)),
    class("Home", "picture frame", &["photo frame", "frame"], WOODS, &["magnetic", "with mat", "freestanding", "set of three"], (6.0, 75.0)),
    class("Furniture", "dining chair", &["kitchen chair", "seat"], WOODS, &["stackable", "upholstered", "foldable", "with armrests"], (39.0, 320.0)),
    class("Furniture", "office chair", &["desk chair", "swivel chair"], HIDES, &["ergonomic", "with headrest", "adjustable", "with armrests"], (79.0, 640.0)),
    class("Furniture", "bookshelf", &["bookcase", "shelf"], WOODS, &["with doors", "corner", "wall mounted", "open"], (49.0, 520.0)),
    class("Furniture", "coffee table", &["sofa table", "low table"], WOODS, &["with drawer", "nesting", "foldable", "round"], (59.0, 480.0)),
    class("Furniture", "bar stool", &["counter stool", "high stool"], WOODS, &["swivel", "adjustable", "upholstered", "stackable"], (45.0, 260.0)),
    class("Furniture", "nightstand", &["bedside table", "night table"], WOODS, &["with drawer", "with usb port", "wall mounted", "round"], (39.0, 240.0)),
    class("Clothing", "raincoat", &["rain jacket", "waterproof coat"], &["nylon", "polyester", "rubber", "cotton"], &["hooded", "packable", "reflective", "lined"], (29.0, 240.0)),
    class("Clothing", "sweater", &["jumper", "pullover"], CLOTHS, &["crew neck", "v neck", "cable knit", "oversized"], (25.0, 190.0)),
    class("Clothing", "scarf", &["shawl", "wrap"], CLOTHS, &["with fringes", "reversible", "knitted", "checked"], (12.0, 110.0)),
    class("Clothing", "gloves", &["mittens", "hand warmers"], &["leather", "wool", "fleece", "suede"], &["touchscreen", "lined", "waterproof", "fingerless"], (10.0, 95.0)),
    class("Clothing", "belt", &["waist belt", "strap"], HIDES, &["reversible", "braided", "with buckle", "elastic"], (12.0, 90.0)),
    class("Clothing", "slippers", &["house shoes", "indoor shoes"], &["wool", "fleece", "suede", "cotton"], &["non slip", "washable", "lined", "open toe"], (15.0, 80.0)),
    class("Travel", "backpack", &["rucksack", "daypack"], HIDES, &["waterproof", "with laptop sleeve", "foldable", "with hip belt"], (29.0, 240.0)),
    class("Travel", "suitcase", &["trolley", "travel case"], &["polycarbonate", "aluminium", "nylon", "canvas"], &["lightweight", "expandable", "with tsa lock", "four wheels"], (49.0, 420.0)),
    class("Travel", "toiletry bag", &["wash bag", "cosmetic bag"], HIDES, &["hanging", "waterproof", "with mirror", "clear"], (9.0, 70.0)),
    class("Travel", "wallet", &["purse", "card holder"], HIDES, &["slim", "rfid blocking", "with coin pocket", "trifold"], (12.0, 110.0)),
    class("Travel", "umbrella", &["brolly", "rain umbrella"], &["nylon", "polyester", "bamboo", "aluminium"], &["foldable", "windproof", "automatic", "reflective"], (11.0, 75.0)),
    class("Garden", "planter", &["flower pot", "plant pot"], &["terracotta", "stoneware", "recycled plastic", "cast iron"], &["self watering", "hanging", "with saucer", "tall"], (8.0, 130.0)),
    class("Garden", "watering can", &["garden can", "sprinkler can"], &["copper", "enamel", "recycled plastic", "aluminium"], &["long spout", "with rose", "indoor", "stackable"], (9.0, 65.0)),
    class("Garden", "garden chair", &["patio chair", "lawn chair"], &["teak", "aluminium", "rattan", "recycled plastic"], &["foldable", "reclining", "stackable", "with cushion"], (29.0, 290.0)),
    class("Garden", "lantern", &["outdoor lamp", "garden light"], METALS, &["solar", "hanging", "waterproof", "dimmable"], (12.0, 110.0)),
    class("Garden", "hammock", &["hanging bed", "swing bed"], CLOTHS, &["with stand", "double", "with spreader bars", "foldable"], (29.0, 210.0)),
];
