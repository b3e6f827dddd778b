//! Words for samples: all invented, but for the names of real cities. Pure data.

/// A city: name, state, first zip prefix, how many prefixes, and its weight.
#[derive(Debug)]
pub struct City {
    pub name: &'static str,
    pub state: &'static str,
    pub zip: u64,
    pub zips: u64,
}

const fn city(name: &'static str, state: &'static str, zip: u64, zips: u64) -> City {
    City { name, state, zip, zips }
}

/// Cities and their weights.
pub const CITIES: &[(u64, City)] = &[
    (155, city("sao paulo", "SP", 1001, 4998)),
    (69, city("rio de janeiro", "RJ", 20001, 2998)),
    (28, city("belo horizonte", "MG", 30100, 1800)),
    (21, city("brasilia", "DF", 70001, 2600)),
    (15, city("curitiba", "PR", 80001, 2500)),
    (15, city("campinas", "SP", 13010, 120)),
    (14, city("porto alegre", "RS", 90010, 1900)),
    (12, city("salvador", "BA", 40010, 1900)),
    (12, city("guarulhos", "SP", 7010, 270)),
    (9, city("sao bernardo do campo", "SP", 9600, 260)),
    (8, city("niteroi", "RJ", 24001, 360)),
    (8, city("santo andre", "SP", 9010, 280)),
    (7, city("osasco", "SP", 6010, 280)),
    (7, city("santos", "SP", 11010, 90)),
    (7, city("goiania", "GO", 74001, 880)),
    (7, city("sao jose dos campos", "SP", 12210, 40)),
    (7, city("fortaleza", "CE", 60010, 1890)),
    (6, city("sorocaba", "SP", 18010, 90)),
    (6, city("recife", "PE", 50010, 1990)),
    (6, city("florianopolis", "SC", 88010, 100)),
    (6, city("jundiai", "SP", 13200, 19)),
    (5, city("ribeirao preto", "SP", 14010, 90)),
    (4, city("belem", "PA", 66001, 830)),
    (4, city("juiz de fora", "MG", 36010, 90)),
    (4, city("contagem", "MG", 32010, 380)),
    (4, city("vitoria", "ES", 29010, 90)),
    (4, city("uberlandia", "MG", 38400, 15)),
    (4, city("joinville", "SC", 89200, 40)),
    (4, city("londrina", "PR", 86010, 80)),
    (3, city("maringa", "PR", 87010, 99)),
    (3, city("sao luis", "MA", 65010, 99)),
    (3, city("natal", "RN", 59010, 140)),
    (3, city("maceio", "AL", 57010, 80)),
    (3, city("cuiaba", "MT", 78005, 94)),
    (3, city("campo grande", "MS", 79002, 120)),
    (2, city("teresina", "PI", 64001, 90)),
    (2, city("joao pessoa", "PB", 58010, 90)),
    (2, city("aracaju", "SE", 49010, 80)),
    (2, city("manaus", "AM", 69010, 90)),
    (1, city("palmas", "TO", 77001, 50)),
    (1, city("porto velho", "RO", 76801, 30)),
    (1, city("macapa", "AP", 68900, 11)),
    (1, city("rio branco", "AC", 69900, 15)),
    (1, city("boa vista", "RR", 69301, 30)),
    (3, city("caxias do sul", "RS", 95010, 90)),
    (2, city("pelotas", "RS", 96010, 90)),
    (3, city("blumenau", "SC", 89010, 70)),
    (2, city("cascavel", "PR", 85801, 18)),
    (2, city("ponta grossa", "PR", 84010, 60)),
    (3, city("bauru", "SP", 17010, 60)),
    (3, city("piracicaba", "SP", 13400, 30)),
    (2, city("taubate", "SP", 12010, 90)),
    (2, city("feira de santana", "BA", 44001, 90)),
    (1, city("ilheus", "BA", 45650, 13)),
    (2, city("petropolis", "RJ", 25610, 90)),
    (2, city("volta redonda", "RJ", 27210, 70)),
    (2, city("montes claros", "MG", 39400, 6)),
    (1, city("ouro preto", "MG", 35400, 2)),
    (2, city("anapolis", "GO", 75001, 90)),
    (1, city("caruaru", "PE", 55002, 60)),
];

/// Categories and their English names, the best sellers first. The last two have no English name, as in the published files.
pub const CATEGORIES: &[(&str, Option<&str>)] = &[
    ("jogos_de_mesa", Some("board_games")),
    ("roupa_de_cama", Some("bed_linen")),
    ("cozinha_e_copa", Some("kitchenware")),
    ("cuidados_pessoais", Some("personal_care")),
    ("telefones_e_capas", Some("phones_and_cases")),
    ("relogios", Some("watches")),
    ("informatica", Some("computing")),
    ("sofas_e_poltronas", Some("sofas_and_armchairs")),
    ("corrida_e_trilha", Some("running_and_trail")),
    ("jardinagem", Some("gardening")),
    ("perfumes", Some("perfumes")),
    ("artigos_para_bebe", Some("baby_goods")),
    ("carros_e_motos", Some("cars_and_motorcycles")),
    ("mochilas", Some("backpacks")),
    ("cadernos_e_canetas", Some("notebooks_and_pens")),
    ("racao_e_coleiras", Some("pet_food_and_collars")),
    ("bonecas_e_carrinhos", Some("dolls_and_toy_cars")),
    ("pneus_e_rodas", Some("tyres_and_wheels")),
    ("ventiladores", Some("fans")),
    ("luminarias", Some("lamps")),
    ("tintas_e_pinceis", Some("paints_and_brushes")),
    ("parafusos_e_brocas", Some("screws_and_drill_bits")),
    ("tapetes", Some("rugs")),
    ("cortinas", Some("curtains")),
    ("panelas", Some("pots_and_pans")),
    ("liquidificadores", Some("blenders")),
    ("cafeteiras", Some("coffee_makers")),
    ("violoes", Some("guitars")),
    ("teclados_musicais", Some("keyboards")),
    ("discos_de_vinil", Some("vinyl_records")),
    ("romances", Some("novels")),
    ("livros_infantis", Some("childrens_books")),
    ("livros_escolares", Some("school_books")),
    ("camisetas", Some("t_shirts")),
    ("vestidos", Some("dresses")),
    ("sapatos", Some("shoes")),
    ("sandalias", Some("sandals")),
    ("bolsas", Some("handbags")),
    ("oculos_de_sol", Some("sunglasses")),
    ("joias", Some("jewellery")),
    ("roupa_infantil", Some("childrens_wear")),
    ("meias_e_cuecas", Some("socks_and_underwear")),
    ("uniformes", Some("uniforms")),
    ("maquiagem", Some("make_up")),
    ("xampus", Some("shampoos")),
    ("vitaminas", Some("vitamins")),
    ("chas_e_ervas", Some("teas_and_herbs")),
    ("cafe_em_graos", Some("coffee_beans")),
    ("doces", Some("sweets")),
    ("vinhos", Some("wines")),
    ("cervejas_artesanais", Some("craft_beers")),
    ("bicicletas", Some("bicycles")),
    ("piscinas", Some("pools")),
    ("barracas", Some("tents")),
    ("pesca", Some("fishing")),
    ("futebol", Some("football")),
    ("natacao", Some("swimming")),
    ("yoga_e_pilates", Some("yoga_and_pilates")),
    ("cameras", Some("cameras")),
    ("fones_de_ouvido", Some("headphones")),
    ("televisores", Some("televisions")),
    ("videogames", Some("video_games")),
    ("impressoras", Some("printers")),
    ("redes_e_roteadores", Some("networks_and_routers")),
    ("cadeiras_de_escritorio", Some("office_chairs")),
    ("camas_e_colchoes", Some("beds_and_matresses")),
    ("armarios", Some("wardrobes")),
    ("estantes", Some("shelves")),
    ("decoracao_de_natal", Some("christmas_decoration")),
    ("festas_e_baloes", Some("parties_and_ballons")),
    ("seguranca_do_trabalho", Some("safety_at_work")),
    ("porta_retratos", None),
    ("caixas_organizadoras", None),
];

/// Titles of reviews with four or five points.
pub const GOOD_TITLES: &[&str] = &[
    "Muito bom",
    "Excelente",
    "Recomendo",
    "Gostei muito ",
    "Chegou cedo",
    "Nota dez",
    "Super indico",
    "Ótima compra",
    "👍👍👍",
    "Perfeito!",
];

/// Titles of reviews with three points.
pub const FAIR_TITLES: &[&str] = &["Regular", "Bom", "Mais ou menos", "Esperava mais", "Ok"];

/// Titles of reviews with one or two points.
pub const POOR_TITLES: &[&str] =
    &["Não chegou", "Veio errado", "Péssimo", "Atrasado", " Decepção", "Não recomendo", "Produto com defeito", "Cadê meu pedido?"];

/// Sentences of reviews with four or five points.
pub const GOOD: &[&str] = &[
    "Chegou dois dias antes do que eu esperava",
    "Produto bem embalado e igual à foto",
    "Gostei bastante, compraria outra vez",
    "Minha filha adorou o presente",
    "Vendedor atencioso, respondeu no mesmo dia",
    "A entrega correu bem",
    "O tamanho serviu direitinho",
    "Material de boa qualidade e acabamento bonito",
    "Preço justo, frete barato",
    "Já é a terceira compra que faço com eles",
    "Funcionou de primeira, sem segredo",
    "Parabéns pela rapidez!!!",
    "A cor é ainda mais bonita ao vivo",
    "Vale cada centavo 😍",
    "Fui informada de cada passo da entrega",
    "Dei de \"presente surpresa\" e foi um sucesso",
];

/// Sentences of reviews with three points.
pub const FAIR: &[&str] = &[
    "O produto é bom, mas a entrega demorou",
    "Serve para o que eu precisava",
    "A cor não é bem a da foto",
    "Poderia vir com manual em português",
    "O frete saiu caro",
    "Ainda não testei, depois volto a avaliar",
    "Embalagem simples demais",
    "Esperava um pouco mais pelo preço",
];

/// Sentences of reviews with one or two points.
pub const POOR: &[&str] = &[
    "Paguei e até agora nada do pedido",
    "Veio faltando uma das peças",
    "Chegou quebrado, a caixa estava amassada",
    "Ninguém responde as minhas mensagens",
    "O prazo venceu faz uma semana",
    "Recebi outro modelo, não foi o que pedi",
    "A nota diz \"entregue\", mas não recebi nada",
    "Peço a devolução do valor pago",
    "O tecido é fino demais, não vale o preço",
    "Parou de funcionar no segundo dia",
    "Tive que ir buscar nos correios",
    "Comprei dois, veio só um",
];

/// First names, for e-mail addresses.
pub const FIRST_NAMES: &[&str] = &[
    "ana", "bruno", "carla", "diego", "elisa", "fabio", "gabriela", "heitor", "ines", "joana", "kleber", "livia", "marcos", "nadia",
    "otavio", "paula", "rafael", "sonia", "tiago", "vera",
];

/// Last names, for e-mail addresses.
pub const LAST_NAMES: &[&str] = &[
    "almeida",
    "barros",
    "cardoso",
    "dias",
    "esteves",
    "ferraz",
    "gomes",
    "henriques",
    "lima",
    "moraes",
    "nogueira",
    "prado",
    "queiroz",
    "ramos",
    "sales",
    "teles",
    "vieira",
    "xavier",
];

/// Domains that no one can own.
pub const MAIL_DOMAINS: &[&str] = &["example.com", "example.org", "example.net"];
