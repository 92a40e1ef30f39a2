"""What the demo model is taught, as plain tables: nothing here is looked up elsewhere."""

CONTINENTS = {
    "Europe": """Albania:Tirana Andorra:Andorra_la_Vella Austria:Vienna Belarus:Minsk Belgium:Brussels Bulgaria:Sofia
        Croatia:Zagreb Cyprus:Nicosia the_Czech_Republic:Prague Denmark:Copenhagen Estonia:Tallinn Finland:Helsinki
        France:Paris Germany:Berlin Greece:Athens Hungary:Budapest Iceland:Reykjavik Ireland:Dublin Italy:Rome
        Latvia:Riga Liechtenstein:Vaduz Lithuania:Vilnius Luxembourg:Luxembourg Malta:Valletta Moldova:Chisinau
        Monaco:Monaco Montenegro:Podgorica the_Netherlands:Amsterdam Norway:Oslo Poland:Warsaw Portugal:Lisbon
        Romania:Bucharest Russia:Moscow Serbia:Belgrade Slovakia:Bratislava Slovenia:Ljubljana Spain:Madrid
        Sweden:Stockholm Switzerland:Bern Ukraine:Kyiv the_United_Kingdom:London England:London Scotland:Edinburgh
        Wales:Cardiff""",
    "Asia": """Afghanistan:Kabul Armenia:Yerevan Azerbaijan:Baku Bahrain:Manama Bangladesh:Dhaka Bhutan:Thimphu
        Cambodia:Phnom_Penh China:Beijing Georgia:Tbilisi India:New_Delhi Indonesia:Jakarta Iran:Tehran Iraq:Baghdad
        Israel:Jerusalem Japan:Tokyo Jordan:Amman Kazakhstan:Astana Kuwait:Kuwait_City Laos:Vientiane Lebanon:Beirut
        Malaysia:Kuala_Lumpur Mongolia:Ulaanbaatar Nepal:Kathmandu North_Korea:Pyongyang Oman:Muscat
        Pakistan:Islamabad the_Philippines:Manila Qatar:Doha Saudi_Arabia:Riyadh Singapore:Singapore South_Korea:Seoul
        Syria:Damascus Taiwan:Taipei Thailand:Bangkok Turkey:Ankara Uzbekistan:Tashkent Vietnam:Hanoi Yemen:Sanaa""",
    "Africa": """Algeria:Algiers Angola:Luanda Botswana:Gaborone Cameroon:Yaounde Chad:N'Djamena Egypt:Cairo
        Ethiopia:Addis_Ababa Ghana:Accra Kenya:Nairobi Libya:Tripoli Madagascar:Antananarivo Mali:Bamako
        Morocco:Rabat Mozambique:Maputo Namibia:Windhoek Nigeria:Abuja Rwanda:Kigali Senegal:Dakar Somalia:Mogadishu
        South_Africa:Pretoria Sudan:Khartoum Tanzania:Dodoma Tunisia:Tunis Uganda:Kampala Zambia:Lusaka
        Zimbabwe:Harare""",
    "North America": """the_Bahamas:Nassau Canada:Ottawa Costa_Rica:San_Jose Cuba:Havana
        the_Dominican_Republic:Santo_Domingo El_Salvador:San_Salvador Guatemala:Guatemala_City Haiti:Port-au-Prince
        Honduras:Tegucigalpa Jamaica:Kingston Mexico:Mexico_City Nicaragua:Managua Panama:Panama_City
        the_United_States:Washington""",
    "South America": """Argentina:Buenos_Aires Bolivia:Sucre Brazil:Brasilia Chile:Santiago Colombia:Bogota
        Ecuador:Quito Paraguay:Asuncion Peru:Lima Uruguay:Montevideo Venezuela:Caracas""",
    "Oceania": "Australia:Canberra Fiji:Suva New_Zealand:Wellington Samoa:Apia",
}
CAPITAL, CONTINENT = {}, {}
for _continent, _text in CONTINENTS.items():
    for _pair in _text.split():
        _country, _city = _pair.replace("_", " ").split(":")
        CAPITAL[_country], CONTINENT[_country] = _city, _continent

# Places that are no countries, or no places at all: their capitals were never taught.
NO_COUNTRIES = """Texas Bavaria California Tuscany Sicily Quebec Alaska Hawaii Siberia Catalonia Normandy Saxony Bali Tibet
    Atlantis Narnia Gondor Utopia Oz Camelot Asgard Elbonia Genovia Hogwarts Lilliput Zamunda Latveria Gotham
    Freedonia Sokovia Westeros Mars Venus Pluto Europe Africa Asia Paris Tokyo""".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()

OPPOSITES = dict(p.split(":") for p in """hot:cold big:small up:down left:right day:night black:white open:closed
    happy:sad fast:slow old:young new:old full:empty high:low early:late good:bad wet:dry hard:soft strong:weak
    rich:poor light:dark loud:quiet long:short thick:thin near:far in:out on:off yes:no true:false first:last
    clean:dirty easy:difficult sweet:sour love:hate begin:end win:lose push:pull buy:sell give:take always:never
    inside:outside above:below before:after deep:shallow wide:narrow heavy:light""".split())

COLOURS = dict(p.replace("_", " ").split(":") for p in """the_sky:blue grass:green snow:white a_banana:yellow
    a_tomato:red a_carrot:orange the_sun:yellow a_lemon:yellow coal:black milk:white blood:red chocolate:brown
    a_strawberry:red the_sea:blue a_leaf:green a_cucumber:green an_elephant:grey a_flamingo:pink a_crow:black
    a_frog:green a_polar_bear:white a_fire_engine:red gold:yellow a_pumpkin:orange""".split())

SOUNDS = dict(p.split(":") for p in """cat:meow dog:woof cow:moo sheep:baa duck:quack pig:oink horse:neigh
    rooster:cock-a-doodle-doo mouse:squeak lion:roar wolf:howl frog:croak bee:buzz owl:hoot snake:hiss
    donkey:hee-haw crow:caw""".split())
BABIES = dict(p.split(":") for p in """cat:kitten dog:puppy cow:calf sheep:lamb duck:duckling pig:piglet horse:foal
    hen:chick lion:cub bear:cub goat:kid deer:fawn kangaroo:joey frog:tadpole swan:cygnet goose:gosling
    rabbit:kit""".split())
LEGS = dict(p.split(":") for p in """cat:4 dog:4 cow:4 horse:4 bird:2 chicken:2 person:2 spider:8 ant:6 bee:6
    beetle:6 snake:0 fish:0 crab:10 octopus:8 elephant:4 frog:4 duck:2 butterfly:6 table:4 worm:0""".split())

# question | the same inside "Tell me ..." | full answer | short answer
FACTS = [line.split(" | ") for line in """
at what temperature does water boil? | at what temperature water boils | Water boils at 100 degrees Celsius. | 100 degrees Celsius.
at what temperature does water freeze? | at what temperature water freezes | Water freezes at 0 degrees Celsius. | 0 degrees Celsius.
what is the largest planet? | what the largest planet is | The largest planet is Jupiter. | Jupiter.
what is the smallest planet? | what the smallest planet is | The smallest planet is Mercury. | Mercury.
which planet is closest to the sun? | which planet is closest to the sun | Mercury is the planet closest to the sun. | Mercury.
which planet is known as the red planet? | which planet is known as the red planet | Mars is known as the red planet. | Mars.
which planet has the famous rings? | which planet has the famous rings | Saturn has the famous rings. | Saturn.
which planet do we live on? | which planet we live on | We live on Earth. | Earth.
how many planets are there? | how many planets there are | There are 8 planets in the solar system. | 8.
what is the largest animal? | what the largest animal is | The largest animal is the blue whale. | The blue whale.
what is the tallest animal? | what the tallest animal is | The tallest animal is the giraffe. | The giraffe.
what is the fastest land animal? | what the fastest land animal is | The fastest land animal is the cheetah. | The cheetah.
what is the largest land animal? | what the largest land animal is | The largest land animal is the elephant. | The elephant.
what is the highest mountain? | what the highest mountain is | The highest mountain is Mount Everest. | Mount Everest.
what is the largest ocean? | what the largest ocean is | The largest ocean is the Pacific Ocean. | The Pacific Ocean.
what is the largest country? | what the largest country is | The largest country is Russia. | Russia.
what is the largest desert? | what the largest desert is | The largest hot desert is the Sahara. | The Sahara.
what is the longest river? | what the longest river is | The longest river is the Nile. | The Nile.
how many continents are there? | how many continents there are | There are 7 continents. | 7.
how many days are in a week? | how many days are in a week | There are 7 days in a week. | 7.
how many days are in a year? | how many days are in a year | There are 365 days in a year, and 366 in a leap year. | 365.
how many months are in a year? | how many months are in a year | There are 12 months in a year. | 12.
how many hours are in a day? | how many hours are in a day | There are 24 hours in a day. | 24.
how many minutes are in an hour? | how many minutes are in an hour | There are 60 minutes in an hour. | 60.
how many seconds are in a minute? | how many seconds are in a minute | There are 60 seconds in a minute. | 60.
how many letters are in the alphabet? | how many letters are in the alphabet | There are 26 letters in the alphabet. | 26.
how many sides does a triangle have? | how many sides a triangle has | A triangle has 3 sides. | 3.
how many sides does a square have? | how many sides a square has | A square has 4 sides. | 4.
how many sides does a hexagon have? | how many sides a hexagon has | A hexagon has 6 sides. | 6.
how many wheels does a bicycle have? | how many wheels a bicycle has | A bicycle has 2 wheels. | 2.
how many wheels does a car have? | how many wheels a car has | A car has 4 wheels. | 4.
how many eyes does a person have? | how many eyes a person has | A person has 2 eyes. | 2.
how many fingers does a hand have? | how many fingers a hand has | A hand has 5 fingers. | 5.
how many centimetres are in a metre? | how many centimetres are in a metre | There are 100 centimetres in a metre. | 100.
how many metres are in a kilometre? | how many metres are in a kilometre | There are 1000 metres in a kilometre. | 1000.
how many grams are in a kilogram? | how many grams are in a kilogram | There are 1000 grams in a kilogram. | 1000.
how many seasons are there? | how many seasons there are | There are 4 seasons: spring, summer, autumn and winter. | 4.
what are the four seasons? | what the four seasons are | The four seasons are spring, summer, autumn and winter. | Spring, summer, autumn and winter.
how many colours does a rainbow have? | how many colours a rainbow has | A rainbow has 7 colours. | 7.
what are the colours of the rainbow? | what the colours of the rainbow are | The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet. | Red, orange, yellow, green, blue, indigo and violet.
what do red and yellow make? | what red and yellow make | Red and yellow make orange. | Orange.
what do blue and yellow make? | what blue and yellow make | Blue and yellow make green. | Green.
what do red and blue make? | what red and blue make | Red and blue make purple. | Purple.
what do black and white make? | what black and white make | Black and white make grey. | Grey.
what is ice made of? | what ice is made of | Ice is made of frozen water. | Frozen water.
what do bees make? | what bees make | Bees make honey. | Honey.
what do cows give us? | what cows give us | Cows give us milk. | Milk.
what do pandas eat? | what pandas eat | Pandas eat bamboo. | Bamboo.
what do rabbits eat? | what rabbits eat | Rabbits eat grass and vegetables. | Grass and vegetables.
what is bread made of? | what bread is made of | Bread is made of flour and water. | Flour and water.
what is cheese made of? | what cheese is made of | Cheese is made of milk. | Milk.
what do plants need to grow? | what plants need to grow | Plants need water, air and light to grow. | Water, air and light.
where do fish live? | where fish live | Fish live in water. | In water.
where does the sun rise? | where the sun rises | The sun rises in the east. | In the east.
where does the sun set? | where the sun sets | The sun sets in the west. | In the west.
what does the moon go around? | what the moon goes around | The moon goes around the Earth. | The Earth.
what does the Earth go around? | what the Earth goes around | The Earth goes around the sun. | The sun.
what is the chemical formula of water? | what the chemical formula of water is | The chemical formula of water is H2O. | H2O.
what is the first letter of the alphabet? | what the first letter of the alphabet is | The first letter of the alphabet is A. | A.
what is the last letter of the alphabet? | what the last letter of the alphabet is | The last letter of the alphabet is Z. | Z.
what is the first month of the year? | what the first month of the year is | The first month of the year is January. | January.
what is the last month of the year? | what the last month of the year is | The last month of the year is December. | December.
which month is the shortest? | which month is the shortest | The shortest month is February. | February.
when is Christmas? | when Christmas is | Christmas is on 25 December. | 25 December.
which instrument has black and white keys? | which instrument has black and white keys | The piano has black and white keys. | The piano.
what do we see with? | what we see with | We see with our eyes. | Our eyes.
what do we hear with? | what we hear with | We hear with our ears. | Our ears.
what is an umbrella for? | what an umbrella is for | An umbrella is for the rain: it keeps you dry. | It keeps you dry.
""".strip().split("\n")]

NAMES = """Ada Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Nina Oscar Paul Rosa Sam Tina Victor Anna
    Bella Carl Dora Eric Fiona George Hanna Ivan Julia Karl Lily Max Nora Otto Peter Ruby Simon Tom Vera Will Zoe
    Alice Bob Carlos Diana Elena Frank Greta Hugo Iris James Kim Laura Maria Noah Olga Priya Robert Sara Theo Uma
    Yuki Zara Amir Chen Fatima Jan Lars Marta Omar Sofia Alex Chris Sandra Thomas Martin Linda""".split()
COLOUR_NAMES = "red blue green yellow orange purple pink black white brown grey".split()
ANIMALS = """cat dog horse rabbit mouse lion tiger bear fox wolf owl duck frog elephant monkey sheep cow pig goat
    hedgehog squirrel penguin turtle parrot dolphin""".split()
FRUITS = "apple banana pear cherry plum peach lemon orange grape mango strawberry melon".split()
VEGETABLES = "carrot potato onion tomato cabbage pea bean pumpkin spinach leek".split()
BIRDS = "owl duck parrot penguin eagle crow swan goose chicken robin".split()
DRINKS = "water milk tea coffee juice lemonade cocoa".split()
INSTRUMENTS = "piano guitar violin flute drum trumpet harp".split()
CLOTHES = "jacket shirt coat hat shoes socks trousers scarf gloves dress".split()
SPORTS = "football tennis swimming running skiing cycling hockey".split()
FLOWERS = "rose tulip daisy lily violet sunflower orchid".split()
# Lists of these were never taught.
UNLISTED = """philosophers rivers lakes poets books films songs stars diseases companies kings wars languages currencies
    metals gases presidents painters inventors trees insects islands universities airports laws viruses spices muscles
    bones minerals programs religions battles banks newspapers actors singers
    scientists elements dinosaurs bridges castles""".split()
FOODS = "bread cheese soup rice pasta pizza cake honey salad pancakes".split()
WORDS = """apple river stone cloud garden window candle bridge rocket silver pepper forest island marble anchor
    button castle feather guitar hammer jacket kettle ladder mirror needle ocean pencil rabbit saddle ticket
    umbrella velvet whistle yellow zebra basket copper dragon engine flower ginger harbour lemon mountain paper
    piano planet pocket river rose salt sand school shadow spoon star summer table thunder tree turtle water
    wind winter wolf wood hello house book bird fish milk tea sun moon cat dog""".split()

# For questions whose answer is not here: what people ask about, and what they want done with it.
VERBS = """
    build repair sell cook paint learn install delete print write translate measure clean improve explain compute
    debug compile review design plant grow teach understand drive fly visit protect remove replace open close store
    move charge cut
""".split()
SUBJECTS = """
    politics football music medicine history chemistry physics biology mathematics software hardware insurance tax
    recipe computer phone laptop bicycle car engine camera government economy religion philosophy art film novel
    painting language grammar university school job salary contract house garden kitchen train airplane ship battery
    network database algorithm virus vaccine disease exercise diet vitamin coffee wine marriage wedding lawyer doctor
    election war peace climate energy bank money loan fashion theatre opera chess poker tennis basketball stock market
    company customer report summary poem essay letter speech website password kernel compiler function variable
""".split()
